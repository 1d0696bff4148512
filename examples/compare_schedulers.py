"""Rank schedulers at a budget of 20 UNet calls: python examples/compare_schedulers.py pndm ddim dpm++2m-karras"""

import sys

import sdapp
from sdapp import results

found = sdapp.compare("a castle on a beach at night", schedulers=sys.argv[1:], steps=[20], seeds=[1, 2], out="outputs/compare")
errors = {item.scheduler: item.solver_error for item in results.summarise(found)}
for place, name in enumerate(results.rank(found, 20), 1):
    print(place, name, errors[name].median if errors[name] else "is stochastic")
