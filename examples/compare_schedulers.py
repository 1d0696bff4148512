"""Rank schedulers at 20 UNet calls: python examples/compare_schedulers.py pndm,ddim [REFERENCE REFERENCE]"""

import sys

import sdapp
from sdapp.comparisons import statistics

names, *references = sys.argv[1:]
more = {"references": references} if references else {}
asked = {"schedulers": names, "steps": [20], "seeds": [1, 2]}
found = sdapp.compare("a castle on a beach at night", out="ranking", **asked, **more)
errors = {item.scheduler: item.solver_error for item in statistics.summarise(found)}
for place, name in enumerate(statistics.rank(found, 20), 1):
    print(place, name, errors[name].median if errors[name] else "is stochastic")
