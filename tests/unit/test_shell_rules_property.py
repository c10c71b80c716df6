"""A denied command is refused wherever known parts of the grammar put it, one within another."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_core.adapters.shell_rules import CommandRules
from asm_core.domain.errors import AsmError, ErrorCode

ALLOWED = ("ls", "cat", "echo", "sh", "bash", "env", "xargs", "find", "exec", "busybox", "sudo", "nice")
DENIED = ("rm", "/bin/rm", "./rm", "r''m", "\\rm", "'rm' -rf /", '"r"m', "rm x y", "rm 2>&1", "RM")
IN_FRONT = ("A=1 ", "A=1 B='x y' ", ">out ", "2>&1 <in ", "! ", "time -p ")
WRAPPERS = (
    *("env ", "env -i A=1 ", "exec ", "command ", "builtin ", "nohup ", "nice -n 5 ", "timeout -k 5 10 ", "busybox "),
    *("sudo -n -u me ", "xargs ", "setsid ", "flock f ", "taskset -c 0 ", "stdbuf -oL "),
)
AROUND = (
    *("ls; {}", "ls;{}", "{}; ls", "ls && {}", "ls || {} || ls", "ls | {} | cat", "ls |& {}", "{} & ls", "ls\n{}\n"),
    *("({})", "( {} )", "{{ {}; }}", "! ({})", "({}) >out 2>&1", "if {}; then ls; fi", "if ls; then ls; else {}; fi"),
    *("while {}; do ls; done", "until ls; do {}; done", "if ls; then if ls; then {}; fi; fi"),
    *("echo $({})", 'echo "a $({}) b"', "echo '$x' $( {} )", "A=$({})", "A=$({}) ls", "ls >$({})", "cat <(ls; {})"),
    *("{}() {{ ls; }}", "f() {{ {}; }}; f", "case x in x) {};; esac", "for i in 1; do {}; done", "cat <<X\n$({})\nX"),
)
AS_STRING = ("sh -c {}", "bash -euo pipefail -c {}", "env sh -c {}", "ls | xargs sh -c {}", "eval {}", "trap {} EXIT")
AS_STRING += ("find . -exec sh -c {} \\;", "su -c {}", "script -c {} f", "echo $(sh -c {})")

simple = st.builds(
    lambda front, wrappers, denied: "".join((*front, *wrappers, denied)),
    st.lists(st.sampled_from(IN_FRONT), max_size=1),
    st.lists(st.sampled_from(WRAPPERS), max_size=3),
    st.sampled_from(DENIED),
)
scripts = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(str.format, st.sampled_from(AROUND), inner),
        st.builds(lambda form, script: form.format(shlex.quote(script)), st.sampled_from(AS_STRING), inner),
    ),
    max_leaves=6,
)


@given(scripts)
def test_a_denied_command_is_refused_within_anything(script: str) -> None:
    for rules in (CommandRules(None, ["rm"]), CommandRules(ALLOWED, None)):
        with pytest.raises(AsmError) as raised:
            rules.check_script(script)
        assert raised.value.code is ErrorCode.POLICY_VIOLATION


@given(st.text(st.sampled_from("lsrm \t\n;|&(){}[]<>$`'\"\\!#=*?~-+0a")) | st.text())
def test_no_text_breaks_the_rules(script: str) -> None:
    """They let it pass or refuse it."""
    for rules in (CommandRules(["ls"], None), CommandRules(None, ["rm"])):
        try:
            rules.check_script(script)
        except AsmError as error:
            assert error.code is ErrorCode.POLICY_VIOLATION
