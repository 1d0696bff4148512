"""The files around the code: workflows, issue forms, citation."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import sdapp

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["check", "release"])
def test_a_workflow_has_jobs_with_pinned_actions_and_targets_that_exist(name: str) -> None:
    workflow = load(f".github/workflows/{name}.yml")
    assert workflow[True].keys() <= {"push", "pull_request"}  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
        for target in re.findall(r"make (\w+)", step.get("run", "")):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_quick_tests_run_on_three_systems() -> None:
    quick = load(".github/workflows/check.yml")["jobs"]["quick"]
    assert quick["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


def test_a_release_is_published_without_a_token() -> None:
    workflow = load(".github/workflows/release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert "secrets." not in str(workflow)


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_an_issue_form_asks_for_something(name: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form.keys() == {"name", "description", "labels", "body"}
    kinds = {"textarea", "checkboxes", "input", "dropdown", "markdown"}
    ids = [each["id"] for each in form["body"] if each["type"] in kinds]
    assert len(ids) == len(set(ids)) == len(form["body"])
    assert any(each.get("validations", {}).get("required") for each in form["body"])


def test_links_of_the_forms_are_those_of_the_project() -> None:
    config = load(".github/ISSUE_TEMPLATE/config.yml")
    homepage = load("CITATION.cff")["repository-code"]
    assert f'Homepage = "{homepage}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(link["url"].startswith(homepage) for link in config["contact_links"])


def test_the_citation_names_the_version() -> None:
    citation = load("CITATION.cff")
    assert citation["version"] == sdapp.__version__
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "license"}
