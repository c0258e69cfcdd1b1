"""Post a report's comment.md on the pull or merge request of this job, in place of the one of the last run.

    python .ci/post_comment.py results/report/comment.md --link URL --name NAME

The marker in its first line finds the comment to replace; NAME makes it another one, for a second job. Where the report
lies, only the job knows: --link. What cannot be posted is a warning, as the gate's exit code says the verdict. Standard
library only, because it also says that the installation failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

MARKER = "<!-- grok1-performance -->"
LINK = "[The full report](report.html)"
NO_VERDICT = f"{MARKER}\n### NO VERDICT: the benchmark ended before it judged anything\n\nSee the job's log. {LINK}\n"
MAX_BYTES = 65_536
PAGE, MAX_PAGES = 100, 50
SECONDS = 30


class Request(NamedTuple):
    """A pull or merge request, by the addresses of its comments."""

    comments: str
    comment: str  # of one, before its id
    update: str  # the method that replaces one
    headers: dict[str, str]
    remedy: str


def main() -> int:
    """Exit codes: 0 posted, not asked for, or a warning; 2 bad input."""
    parser = argparse.ArgumentParser(description="Post a report's comment.md on the request of this job.")
    parser.add_argument("file", help="what the benchmark wrote; if it is not there, the comment says so")
    parser.add_argument("--link", default="", metavar="URL", help="where the report can be read")
    parser.add_argument("--name", default="", help="of one of several comments: letters, digits, dots, dashes")
    given = parser.parse_args()
    try:
        request = request_of(os.environ)
        body = body_of(given.file, given.link, given.name)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if request is None:
        print("note: no comment: this job is of no pull or merge request, or has no PERFORMANCE_TOKEN", file=sys.stderr)
        return 0
    try:
        post(request, body)
    except (OSError, ValueError) as error:  # urllib's are OSErrors
        print(f"warning: no comment was posted: {told(error)}; {request.remedy}", file=sys.stderr)
    return 0


def request_of(environment: Mapping[str, str]) -> Request | None:
    """What GitHub's or GitLab's variables say of this job; None where it is of no request, or has no token."""
    get = environment.get
    token = get("PERFORMANCE_TOKEN", "")
    github = [get("GITHUB_API_URL"), get("GITHUB_REPOSITORY"), get("PERFORMANCE_PULL_REQUEST")]
    gitlab = [get("CI_API_V4_URL"), get("CI_PROJECT_ID"), get("CI_MERGE_REQUEST_IID")]
    if token and all(github):
        api, repository, number = github
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
        remedy = "the job needs `permissions: {pull-requests: write}`, which none has on a pull request from a fork"
        issues = f"{api}/repos/{repository}/issues"
        return Request(f"{issues}/{number}/comments", f"{issues}/comments", "PATCH", headers, remedy)
    if token and all(gitlab):
        api, project, number = gitlab
        notes = f"{api}/projects/{project}/merge_requests/{number}/notes"
        return Request(notes, notes, "PUT", {"PRIVATE-TOKEN": token}, "PERFORMANCE_TOKEN needs the scope `api`")
    return None


def body_of(path: str, link: str, name: str) -> str:
    """The comment with its link and its name."""
    if link and not re.fullmatch(r"https?://[^\s()<>\"]{1,2000}", link):
        raise ValueError(f"--link {link!r}: is no address; give one that starts with https://")
    if name and not re.fullmatch(r"\w[\w.]*(-[\w.]+)*", name, re.ASCII):
        raise ValueError(f"--name {name!r}: only letters, digits, dots and single dashes between them")
    body = NO_VERDICT
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            body = file.read(MAX_BYTES)
    if not body.startswith(f"{MARKER}\n"):
        raise ValueError(f"{path}: is no comment of a report: its first line is not {MARKER}")
    body = body.replace(LINK, LINK.replace("report.html", link) if link else "The full report is in the job's files.")
    return body.replace(MARKER, marker(name), 1)


def marker(name: str) -> str:
    return MARKER.replace(" -->", f": {name} -->") if name else MARKER


def post(request: Request, body: str) -> None:
    first = body.partition("\n")[0]
    for page in range(1, MAX_PAGES + 1):
        found = call(request, "GET", f"{request.comments}?per_page={PAGE}&page={page}")
        for each in found:
            if (each.get("body") or "").partition("\n")[0].strip() == first:
                call(request, request.update, f"{request.comment}/{int(each['id'])}", body)
                print("the comment of the last run was replaced")
                return
        if len(found) < PAGE:
            break
    call(request, "POST", request.comments, body)
    print("a comment was posted")


def call(request: Request, method: str, address: str, body: str | None = None) -> Any:
    data = None if body is None else json.dumps({"body": body}).encode()
    asked = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": "application/json"})
    for name, value in request.headers.items():
        asked.add_unredirected_header(name, value)  # a token is for this address alone
    with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
        return json.load(answer)


def told(error: Exception) -> str:
    """In one printable line; the service may have written it."""
    words = f"{error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else str(error)
    return "".join(char if char.isprintable() else " " for char in words)[:200]


if __name__ == "__main__":
    sys.exit(main())
