"""The gate in other people's CI: its steps run as scripts, with stand-ins for the interpreter and for the services."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports import comment as written
from tests.ci_steps import ACTION, EXPRESSION, HOUSE, Done, action, bash, job, on_github, on_gitlab
from tests.limits import HANG_SECONDS

# what make venv makes: it writes down its words, and a comment as the benchmark would
PYTHON = f"""#!/bin/bash
case $1 in *post_comment.py) exec {sys.executable} "$@" ;; esac
printf '<%s>' "$@" >>words
mkdir -p results/report
printf '%s\\n' '{written.MARKER}' '### FAIL: it is slower' '' '{written.LINK}' >results/report/comment.md
exit "$(cat code)"
"""
MAKEFILE = """venv:
\t@mkdir -p .venv/bin && cp python.sh .venv/bin/python && chmod +x .venv/bin/python
"""
HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "x\ntouch pwned\n",
    "$((a[$(touch pwned)]))",
    "--x; touch pwned",
)
DOCUMENT = (HOUSE / "docs" / "ci.md").read_text(encoding="utf-8")
LINK = "https://ci.example/artifacts/7"


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of a change that brings baselines of its own, on a branch called base; the benchmark will exit with 0."""
    folder = tmp_path / "checkout"
    for name in (ACTION, ".ci/performance", ".ci/post_comment.py", "bench/cases.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOUSE / name, folder / name)
    for name, content in {"python.sh": PYTHON, "Makefile": MAKEFILE, "code": "0"}.items():
        (folder / name).write_text(content)
    (folder / "baselines" / "npu").mkdir(parents=True)
    (folder / "baselines" / "npu" / "case.json").write_text("of base")
    git(folder, "init", "-q", "-b", "base")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "base")
    git(folder, "checkout", "-qb", "change")
    (folder / "baselines" / "npu" / "case.json").write_text("easier")
    git(folder, "commit", "-qam", "change")
    return folder


def words_of(checkout: Path) -> list[str]:
    """Those that the benchmark was started with."""
    return (checkout / "words").read_text()[1:-1].split("><")


def pull_request(checkout: Path, **more: str) -> dict[str, str]:
    return {"github.event.pull_request.base.sha": git(checkout, "rev-parse", "base"), **more}


def test_no_expression_is_part_of_a_script() -> None:
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4
    assert not [script for script in scripts if EXPRESSION.search(script)]


def test_every_input_is_used_and_every_one_that_is_used_exists() -> None:
    told = action()
    used = {
        name for found in EXPRESSION.findall(json.dumps(told["runs"])) for name in re.findall(r"inputs\.(\w+)", found)
    }
    assert used == set(told["inputs"])


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_action_ends_with_the_gates_exit_code(checkout: Path, code: int) -> None:
    (checkout / "code").write_text(str(code))
    done = on_github(checkout, {"case": "grok1-40b", "options": "--runs 5\n--settle"}, pull_request(checkout))
    assert [name for name, _ in done] == ["Install", "Restore baselines", "Gate", "Comment"]
    assert [each.returncode for _, each in done] == [0, 0, code, 0], done
    assert (checkout / "outputs").read_text() == f"exit-code={code}\n"
    assert words_of(checkout) == [
        "-m", "pytest", "bench/test_pretrain.py", "--benchmark", "--case=grok1-40b", "--results=results",
        "--junitxml=results/junit.xml", "--runs", "5", "--settle", "--baselines=results/baselines-of-base",
    ]  # fmt: skip


def test_the_job_does_as_the_action_does(checkout: Path) -> None:
    (checkout / "code").write_text("1")
    base = git(checkout, "rev-parse", "base")
    of_job = {
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
        "PERFORMANCE_CASE": "grok1-40b",
        "PERFORMANCE_OPTIONS": "--runs 5",
    }
    done, after = on_gitlab(checkout, of_job)
    assert done.returncode == 1, done.stderr
    assert after.returncode == 0
    assert "no comment: this job is of no pull or merge request" in after.stderr
    assert words_of(checkout)[4:] == [
        "--case=grok1-40b", "--results=results", "--junitxml=results/junit.xml", "--runs", "5",
        "--baselines=results/baselines-of-base",
    ]  # fmt: skip
    assert job()["artifacts"]["when"] == "always"


def test_a_change_is_judged_by_the_baselines_of_what_it_is_merged_into(checkout: Path) -> None:
    on_github(checkout, {"case": "c"}, pull_request(checkout))
    assert (checkout / "results" / "baselines-of-base" / "npu" / "case.json").read_text() == "of base"
    (checkout / "words").unlink()
    on_github(checkout, {"case": "c"}, {})  # a push: what is checked out judges, and nothing that was left here
    assert words_of(checkout)[-1] == "--junitxml=results/junit.xml"
    (checkout / "words").unlink()
    on_github(checkout, {"case": "c", "baselines": "mine"}, pull_request(checkout))
    assert words_of(checkout)[-1] == "--baselines=mine"


def test_a_shallow_checkout_fetches_the_base_or_names_the_remedy(checkout: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", "--branch=change", checkout.as_uri(), str(shallow))
    for name in ("code", "python.sh", "Makefile"):
        shutil.copy(checkout / name, shallow / name)
    done = on_github(shallow, {"case": "c"}, pull_request(checkout))
    assert [each.returncode for _, each in done] == [0, 0, 0, 0], done
    assert (shallow / "results" / "baselines-of-base" / "npu" / "case.json").read_text() == "of base"
    done = on_github(shallow, {"case": "c", "base": "0" * 40}, {})
    assert [(name, each.returncode) for name, each in done[:2]] == [("Install", 0), ("Restore baselines", 2)]
    assert 'give it its history (fetch-depth: 0, GIT_DEPTH: "0")' in done[1][1].stderr


@pytest.mark.parametrize("words", HOSTILE)
def test_no_input_is_executed(checkout: Path, words: str) -> None:
    given = dict.fromkeys(("case", "options", "baselines", "name", "token"), words)
    done = on_github(checkout, given, pull_request(checkout))
    assert f"--case={words}" in words_of(checkout)
    on_github(checkout, dict.fromkeys(action()["inputs"], words), {})
    names = ("CASE", "OPTIONS", "BASELINES", "NAME", "TOKEN", "BASE", "LINK")
    on_gitlab(checkout, {f"PERFORMANCE_{name}": words for name in names})
    on_gitlab(checkout, {f"PERFORMANCE_{name}": words for name in ("DIRECTORY", "PYTHON")})
    assert [name for name, _ in done] == ["Install", "Restore baselines", "Gate", "Comment"]
    assert not list(checkout.rglob("pwned"))


def test_an_expression_in_a_script_would_be_executed(checkout: Path) -> None:
    """The trap that the test above is about, so that it is known to see it."""
    text = (HOUSE / ACTION).read_text(encoding="utf-8")
    careless = action(text.replace('performance" gate', 'performance" gate "${{ inputs.case }}"'))
    on_github(checkout, {"case": "$(touch pwned)"}, {}, careless)
    assert (checkout / "pwned").is_file()


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"PERFORMANCE_CASE": ""}, "no case: name one"),
        ({"PERFORMANCE_PYTHON": "/bin/false"}, "install the project there"),
        ({"PERFORMANCE_BASE": "--output=x"}, "base --output=x: is no commit"),
        ({"PERFORMANCE_DIRECTORY": ".ci/.."}, None),
    ],
)
def test_a_wrong_value_is_one_line_and_code_2(checkout: Path, variables: dict[str, str], complaint: str | None) -> None:
    done, _ = on_gitlab(checkout, {"PERFORMANCE_CASE": "c", **variables})
    assert done.returncode == (2 if complaint else 0), done.stderr
    assert (complaint or "") in done.stderr
    assert len(done.stderr.splitlines()) == (1 if complaint else 0)


def test_a_folder_that_is_no_checkout_is_refused(checkout: Path, tmp_path: Path) -> None:
    done = bash(f'bash "{checkout}/.ci/performance" gate', tmp_path, {"PERFORMANCE_CASE": "c"})
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {tmp_path}: is no checkout of this project, which bench/cases.py is part of\n",
    )


class Service(ThreadingHTTPServer):
    """GitHub's or GitLab's comments of one request, in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.comments: list[dict[str, Any]] = []
        self.refuses = False
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def _answer(self) -> None:
        service, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service.asked.append((self.command, self.path, self.headers["Authorization"] or self.headers["PRIVATE-TOKEN"]))
        content: Any = {}
        if self.command == "GET":
            page = int(self.path.rpartition("page=")[2])
            content = service.comments[100 * (page - 1) : 100 * page]
        elif self.command == "POST":
            service.comments.append({"id": len(service.comments), **json.loads(body)})
        else:
            service.comments[int(self.path.rpartition("/")[2])] |= json.loads(body)
        raw = json.dumps(content).encode()
        self.send_response(403 if service.refuses else 200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815  # the names that http.server calls

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def test_the_jobs_comment_links_to_its_files(checkout: Path, service: Service) -> None:
    of_job = {"PERFORMANCE_CASE": "c", "PERFORMANCE_TOKEN": "t", "CI_JOB_URL": "https://ci.example/jobs/9"}
    of_request = {"CI_API_V4_URL": service.address, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "3"}
    for at, folder, report in (
        (checkout, ".", "results/report"),
        (checkout.parent, "checkout", "checkout/results/report"),
    ):
        on_gitlab(at, {**of_job, **of_request, "PERFORMANCE_DIRECTORY": folder})
        (only,) = service.comments
        assert only["body"].startswith("<!-- grok1-performance: performance -->\n### FAIL: it is slower\n")
        assert f"](https://ci.example/jobs/9/artifacts/browse/{report})" in only["body"]


def post(service: Service, folder: Path, *words: str, on: str = "github", **more: str) -> Done:
    """Post the comment of `folder`, as a job of a request would."""
    github = {"GITHUB_API_URL": service.address, "GITHUB_REPOSITORY": "o/r", "PERFORMANCE_PULL_REQUEST": "3"}
    gitlab = {"CI_API_V4_URL": service.address, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "3"}
    return subprocess.run(
        [sys.executable, str(HOUSE / ".ci" / "post_comment.py"), "comment.md", *words],
        cwd=folder,
        env={"PERFORMANCE_TOKEN": "secret", **(github if on == "github" else gitlab), **more},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


def write_comment(folder: Path, words: str) -> None:
    (folder / "comment.md").write_text(f"{written.MARKER}\n### {words}\n\n{written.LINK}\n")


@pytest.mark.parametrize(
    ("on", "comments", "update", "token"),
    [
        ("github", "/repos/o/r/issues/3/comments", ("PATCH", "/repos/o/r/issues/comments/120"), "Bearer secret"),
        ("gitlab", "/projects/5/merge_requests/3/notes", ("PUT", "/projects/5/merge_requests/3/notes/120"), "secret"),
    ],
)
def test_there_is_one_comment_which_the_next_run_replaces(
    service: Service, tmp_path: Path, on: str, comments: str, update: tuple[str, str], token: str
) -> None:
    service.comments = [{"id": place, "body": "a person's words"} for place in range(120)]
    for words in ("FAIL: one", "PASS: two"):
        write_comment(tmp_path, words)
        done = post(service, tmp_path, "--link", LINK, on=on)
        assert done.returncode == 0, done.stderr
    assert len(service.comments) == 121
    assert service.comments[120]["body"] == f"{written.MARKER}\n### PASS: two\n\n[The full report]({LINK})\n"
    pages = [("GET", f"{comments}?per_page=100&page={page}") for page in (1, 2)]
    assert [each[:2] for each in service.asked] == [*pages, ("POST", comments), *pages, update]
    assert {each[2] for each in service.asked} == {token}


def test_each_name_has_a_comment_of_its_own(service: Service, tmp_path: Path) -> None:
    write_comment(tmp_path, "PASS")
    for name in ("npu-8", "cpu", "", "npu-8", ""):
        assert post(service, tmp_path, "--name", name).returncode == 0
    firsts = [each["body"].partition("\n")[0] for each in service.comments]
    assert firsts == ["<!-- grok1-performance: npu-8 -->", "<!-- grok1-performance: cpu -->", written.MARKER]
    assert "(report.html)" not in service.comments[0]["body"]


def test_a_run_without_a_verdict_replaces_the_last_ones(service: Service, tmp_path: Path) -> None:
    write_comment(tmp_path, "PASS")
    post(service, tmp_path)
    (tmp_path / "comment.md").unlink()
    post(service, tmp_path, "--link", LINK)
    (only,) = service.comments
    assert only["body"].splitlines()[1].startswith("### NO VERDICT: ")
    assert f"]({LINK})" in only["body"]


def test_a_comment_that_cannot_be_posted_is_a_warning_with_a_remedy(service: Service, tmp_path: Path) -> None:
    write_comment(tmp_path, "PASS")
    service.refuses = True
    done = post(service, tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("warning: no comment was posted: 403 ")
    assert "permissions: {pull-requests: write}" in done.stderr
    assert "secret" not in done.stderr
    done = post(service, tmp_path, on="gitlab", CI_API_V4_URL="http://127.0.0.1:9")
    assert done.returncode == 0
    assert "scope `api`" in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--name", "a --> b"], "--name 'a --> b': only letters"),
        (["--name", "a--b"], "--name 'a--b': only letters"),
        (["--link", "javascript:x"], "--link 'javascript:x': is no address"),
        (["--link", "https://a) [b](c"], "is no address"),
    ],
)
def test_words_that_would_break_the_comment_are_refused(
    service: Service, tmp_path: Path, words: list[str], complaint: str
) -> None:
    write_comment(tmp_path, "PASS")
    done = post(service, tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert not service.asked


def test_a_file_that_is_no_comment_is_refused(service: Service, tmp_path: Path) -> None:
    (tmp_path / "comment.md").write_text("/close\n")
    done = post(service, tmp_path)
    assert (done.returncode, service.asked) == (2, [])
    assert "comment.md: is no comment of a report" in done.stderr


def test_the_documents_examples_are_ten_lines_and_name_what_there_is() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, re.M | re.S)
    github, gitlab = (yaml.safe_load(each) for each in blocks[:2])
    assert [len(each.splitlines()) for each in blocks[:2]] == [10, 9]
    (step,) = (each for each in github["jobs"]["performance"]["steps"] if "actions/performance" in each["uses"])
    assert HOUSE / step["uses"] / "action.yml" == HOUSE / ACTION
    assert set(step["with"]) <= set(action()["inputs"])
    assert (HOUSE / gitlab["include"]["local"]).is_file()
    assert gitlab["performance"]["extends"] == ".performance"
    assert set(gitlab["performance"]["variables"]) <= set(job()["variables"])


def test_the_document_lists_every_input_and_every_variable() -> None:
    listed = DOCUMENT.partition("| input |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)", listed, re.M)) == set(action()["inputs"])
    variables = set(re.findall(r"PERFORMANCE_\w+", listed))
    assert variables == set(re.findall(r"PERFORMANCE_\w+", (HOUSE / ".gitlab/performance.yml").read_text())) | {
        "PERFORMANCE_BASE"
    }
    read = set(re.findall(r"PERFORMANCE_\w+", (HOUSE / ".ci/performance").read_text()))
    assert read <= variables | {"PERFORMANCE_LINK"}


def test_the_script_and_the_report_agree_on_the_marker_and_the_link() -> None:
    script = (HOUSE / ".ci" / "post_comment.py").read_text(encoding="utf-8")
    assert f'MARKER = "{written.MARKER}"' in script
    assert f'LINK = "{written.LINK}"' in script
