"""What the shell provider's lists let through: every command in a line is judged; what cannot be judged is refused."""

from __future__ import annotations

import time

import pytest

from asm_core.adapters.shell_rules import CommandRules
from asm_core.adapters.shell_words import MAX_JUDGED
from asm_core.domain.errors import AsmError, ErrorCode

PROGRAMS = ("ls", "echo", "cat", "grep", "sort", "[", "true", "false", "find", "sh", "bash")
BUILTINS = ("read", "unset", "wait", "export", "readonly", "printf", "set")
ALLOWED = (*PROGRAMS, *BUILTINS, "env", "sudo", "nohup", "exec", "command", "time", "xargs", "nice", "timeout")

RUNS = [
    "ls",
    "/bin/ls -l /tmp",
    "ls -l | sort -r | cat",
    "ls; echo done && cat x || echo no &",
    "ls\necho two\n\ncat three",
    "echo 'a; rm -rf /' \"b | rm\" c\\;rm",
    "echo ';' rm '|' rm",
    "grep '$(rm)' file",
    'grep -E "foo$|^bar" file',
    "echo $HOME ${HOME} $? $1 * ~ {a,b} [x]",
    'l\'\'s; "ls"; \\ls; l"s"',
    "FOO=1 BAR='x y' ls",
    "FOO=rm",
    "echo hi > rm 2>&1",
    "2>err >out ls < in",
    "echo 2 > f; echo a2>f",
    "(ls; (echo deep)) && { cat x; }",
    "if ls; then echo a; elif cat x; then echo b; else echo c; fi",
    "while ! grep x f; do echo again; done",
    "[ -f x ] && cat x",
    '[ -n "$x" ] && [ "$x" = "$y" -o "$x" -nt y ] && [ $? -eq 0 ] && [ $# -gt 1 ]',
    "IFS= read -r -p 'Name: ' a b",
    "unset -v a b; wait; export A='x y' B=\"$x\"; readonly A",
    "printf '%s\\n' \"$x\" $y; printf -- -v",
    "set -euo pipefail; set -- $x",
    "{ ls; }>out",
    "( (ls) )",
    'echo $(ls | sort) `cat x` "$(echo "$(ls)")"',
    "echo a#b",
    "env ls",
    "env -i -u HOME A=1 ls -l",
    "sudo -n -u nobody ls",
    "timeout -k 5 --signal=KILL 10 ls",
    "nice -n 5 nohup ls",
    "time -p ls",
    "exec 3<file",
    "command -v ls",
    "ls | xargs -n1 -P 4 cat",
    "sh -c 'ls | cat'",
    "sh -ec 'ls' _ $x",
    "bash -euo pipefail -c 'ls; echo \"$1\"' _ rm",
    "find . -name '*.py' -exec grep x {} +",
    "find . -exec cat {} \\; -exec ls {} \\;",
    "",
]

REFUSED = [
    "rm",
    "/bin/rm -rf /",
    "./ls/../rm",
    "echo x; rm",
    "echo x;rm",
    "ls&rm",
    "ls && rm",
    "false || rm",
    "ls | rm",
    "ls |& rm",
    "ls & rm",
    "ls\nrm",
    "(rm)",
    "{ rm; }",
    "! rm",
    "if true; then rm; fi",
    "while rm; do echo; done",
    "FOO=1 rm",
    "A=1 B=2 rm",
    ">f rm",
    "2>f rm",
    "<in rm",
    "r''m; \\rm",
    "'rm' x",
    '"r"m x',
    "echo $(rm)",
    'echo "$(rm)"',
    'echo "$(echo "$(rm)")"',
    "echo `rm`",
    'echo "`rm`"',
    "FOO=$(rm) ls",
    "cat < $(rm)",
    "env rm",
    "env A=1 rm",
    "env -u A -i rm",
    "sudo -u root rm",
    "nohup rm",
    "exec rm",
    "exec -a ls rm",
    "command rm",
    "time rm",
    "time -p ! rm",
    "nice -n 5 rm",
    "timeout 5 rm",
    "timeout -s KILL 5 rm",
    "env nice nohup timeout 5 rm",
    "ls | xargs rm",
    "ls | xargs -n 1 env rm",
    "sh -c rm",
    "sh -c 'ls; rm'",
    'bash -ec "ls && rm"',
    "sh -o errexit -c 'rm'",
    "env sh -c 'sh -c \"rm\"'",
    "find . -exec rm {} +",
    "find . -exec ls {} \\; -execdir rm {} \\;",
    "find . -exec sh -c 'rm' \\;",
    "find . -exec env -u + rm \\;",
    "cat -; python3 -c 1",
    "/bin/../bin/rm",
    "taskset -c 0 rm",
    "chrt -o 0 rm",
    "flock -w 5 f rm",
    "flock f -c rm",
    "find . -exec flock f rm {} +",
    "toybox rm",
]

UNCLEAR = [
    "eval ls",
    ". ./ls",
    "source ls",
    "alias ls=rm",
    "trap 'rm' EXIT",
    "$x",
    "${x} a",
    '"$x" a',
    "l$x",
    "$(echo ls)",
    "`echo ls`",
    "/bin/l?",
    "/bin/l*",
    "{ls,rm}",
    "~/ls",
    "'' x",
    "cat <<X\nrm\nX",
    "cat <<<x",
    "cat <(ls)",
    "ls >(cat)",
    "ls &> x",
    "echo $((1+1))",
    "echo ${x:-$(rm)}",
    "echo $'a'",
    "echo 'a",
    'echo "a',
    "echo `ls",
    "echo $(ls",
    "(ls",
    "ls \\",
    "ls \\\nrm",
    "ls # it's",
    "ls() { rm; }",
    "function ls { rm; }",
    "for x in a; do ls; done",
    "case x in x) ls;; esac",
    "[[ -f x ]]",
    "coproc ls",
    "ls >",
    "ls >&'$(rm)' x",
    "timeout -s KILL 52>&1 rm",
    "ls\u00a0rm",
    "ls \ue072\ue06d",
    "env -S 'ls'",
    "env $x ls",
    "env - ls",
    "env A=1 -i ls",
    "sudo -s",
    "timeout $x ls",
    "xargs -I{} ls {}",
    "xargs env",
    "xargs sh -c",
    "xargs find",
    "xargs sudo",
    "sh",
    "sh script.sh",
    "sh -s",
    'sh -c "$x"',
    "sh -c",
    "find . $x",
    "find . -exec *m x \\;",
    "find . -exec {} \\;",
    "find . -exec '{}' \\;",
    "find . -exec sh -c '{}' \\;",
    "zsh -c ls",
    "echo " + "$(" * 40 + ")" * 40,
    "env " * 40 + "ls",
    *("rbash -c ls", "ksh -c ls", "su -c ls", "script -c ls f", "chroot / ls", "strace ls"),
    "bash -coo errexit nounset ls",
    "bash -lc ls",
    "bash -o histexpand -c ls",
]

EVALUATED = [
    *("((x))", "ls; ((x = 1))", "$( ((x)) )", "let x", "declare -i x=y", "typeset -i x=y", "local -i x=y"),
    *("read 'a[$(rm)]'", "read a[x]", 'read "$x"', "read $x", "command read 'a[x]'", "wait -n -p 'a[$(rm)]'"),
    *("unset 'a[$(rm)]'", 'unset -v "$x"', "wait $x", "printf -v 'a[$(rm)]' x", 'printf "$x" y', "printf $x"),
    *("[ -v 'a[$(rm)]' ]", 'test -v "$x"', "[ x -a -v 'a[x]' ]", '[ "$x" "$y" ]', "[ $x = y ]", '[ "$@" ]', "[ * ]"),
    *("ls {a[x]}>f", "ls {fd}>f", "exec {fd}<f", "RANDOM='a[$(rm)]'", "SRANDOM=x ls", "OPTIND=x", "HISTCMD=x"),
    *(
        "PS4='$(rm)'; set -x; ls",
        "read PS4",
        "export PS4=x",
        "export 'PS4'=x",
        "export $x",
        "export A=$x",
        "readonly PS4",
    ),
    *("env PS4=x ls", "sudo PATH=x ls", "PATH=. ls", "PATH+=:. ls", "LD_PRELOAD=./x ls", "BASH_ENV=./x sh -c ls"),
    *("env 'BASH_FUNC_ls%%=() { rm; }' bash -c ls", "env ENV=./x ls", "export BASH_ENV=x", "SSH_CLIENT=x bash -c ls"),
    *("set -H", "set -o history", "set -k", "set $x", 'set "$x"', "shopt -s extglob", "jobs -x rm"),
]
"""What bash executes where no command stands: in subscripts, in arithmetic, in variables of its own."""


def violation(rules: CommandRules, script: str) -> AsmError | None:
    try:
        rules.check_script(script)
    except AsmError as error:
        assert error.code is ErrorCode.POLICY_VIOLATION
        return error
    return None


@pytest.mark.parametrize("script", RUNS)
def test_allowed_commands_run(script: str) -> None:
    """Quotes, redirections, keywords and wrappers do not stand in the way of commands that are all on the list."""
    assert violation(CommandRules(ALLOWED, None), script) is None


@pytest.mark.parametrize("script", REFUSED)
def test_a_command_outside_the_allow_list_is_found_wherever_it_stands(script: str) -> None:
    error = violation(CommandRules(ALLOWED, None), script)
    assert error is not None
    assert error.details["reason"] in ("command_not_allowed", "command_not_parsed")


@pytest.mark.parametrize("script", [script for script in REFUSED if "rm" in script])
def test_a_denied_command_is_found_wherever_it_stands(script: str) -> None:
    """Also without any allow-list."""
    error = violation(CommandRules(None, ["/bin/rm"]), script)
    assert error is not None
    assert error.details["reason"] in ("command_denied", "command_not_parsed")


@pytest.mark.parametrize("script", UNCLEAR)
def test_what_cannot_be_judged_is_refused_while_a_list_is_set(script: str) -> None:
    error = violation(CommandRules((*ALLOWED, "rm", "eval", "zsh"), ["format"]), script)
    assert error is not None
    assert error.details["reason"] == "command_not_parsed"


@pytest.mark.parametrize("script", EVALUATED)
def test_what_the_shell_evaluates_is_refused_while_a_list_is_set(script: str) -> None:
    """Even where every command is on the list."""
    more = ("let", "declare", "typeset", "local", "shopt", "jobs", "test", "x")
    error = violation(CommandRules((*ALLOWED, *more, "rm"), ["format"]), script)
    assert error is not None
    assert error.details["reason"] == "command_not_parsed"


@pytest.mark.parametrize("script", [*RUNS, *REFUSED, *UNCLEAR, *EVALUATED])
def test_without_lists_everything_runs(script: str) -> None:
    assert violation(CommandRules(None, None), script) is None


def test_denied_wins_over_allowed() -> None:
    error = violation(CommandRules(["ls", "rm"], ["rm"]), "ls; rm")
    assert error is not None
    assert error.details == {"reason": "command_denied", "command": "rm"}


@pytest.mark.parametrize("script", ["RM x", "/bin/Rm", "ENV rm", "SH -c rm", "EVAL rm"])
def test_no_other_spelling_passes_where_files_have_one_name_in_all_of_them(script: str) -> None:
    assert violation(CommandRules(None, ["rm"]), script) is not None
    assert violation(CommandRules(None, ["RM"]), "rm") is not None


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "BASH_FUNC_ls%%", "BASH_ENV", "ENV", "PS4"])
def test_an_environment_that_decides_what_runs_is_refused_while_a_list_is_set(name: str) -> None:
    CommandRules(None, None).check_env({name: "x"})
    CommandRules(None, ["rm"]).check_env({"LANG": "C", "DEBUG": "1"})
    with pytest.raises(AsmError) as raised:
        CommandRules(None, ["rm"]).check_env({"A": "1", name: "x"})
    assert raised.value.code is ErrorCode.POLICY_VIOLATION


def test_an_empty_allow_list_allows_nothing() -> None:
    assert violation(CommandRules([], None), "ls") is not None


@pytest.mark.parametrize(
    ("argv", "runs"),
    [
        (["ls", "; rm", "$(rm)", "|", "rm"], True),
        (["/usr/bin/ls"], True),
        (["rm"], False),
        (["/bin/rm", "x"], False),
        (["env", "A=1", "rm"], False),
        (["sh", "-c", "ls | cat"], True),
        (["sh", "-c", "ls | rm"], False),
        (["find", ".", "-exec", "rm", "{}", ";"], False),
        (["find", ".", "-exec", "ls", "{}", ";"], True),
        (["xargs", "timeout", "5", "rm"], False),
    ],
)
def test_direct_execution_takes_every_word_literally(argv: list[str], runs: bool) -> None:
    rules = CommandRules(ALLOWED, ["rm"])
    if runs:
        rules.check_argv(argv)
    else:
        with pytest.raises(AsmError, match="rm"):
            rules.check_argv(argv)


@pytest.mark.parametrize("piece", ["'a'", "$x ", "\\a", "ls;", "a>b ", "env ", "$(ls)", "find -exec ", "! ", "1"])
def test_judging_a_long_command_is_bounded(piece: str) -> None:
    """Hostile input costs the server little; beyond the bound it is refused unread."""
    rules = CommandRules(None, ["rm"])
    began = time.process_time()
    violation(rules, f"ls {piece * (MAX_JUDGED // len(piece) - 1)}")
    assert time.process_time() - began < 2
    assert violation(rules, "x" * (MAX_JUDGED + 1)) is not None
