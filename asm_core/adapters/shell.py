"""
Provider `shell`: one command per run, its stdout streamed, its exit code the run's outcome.

The second half of the file judges commands against an allow-list and a deny-list. That is a guard against mistakes, not
a sandbox: a program that may run can start others (`awk`, `make`, `ssh`, an interpreter), and only base names are
compared. Within what a shell string itself says, though, nothing passes unseen: what cannot be parsed with certainty is
refused while a list is set.

Source: spec/05 §15, §16.5; spec/04 §6.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.messages import check_messages, input_messages
from asm_core.domain.run import MAX_TIMEOUT_MS
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.process import CommandResult, Limits, clean_env, launch

Item = RawEvent | Completion

NEEDS_SHELL = re.compile(r"[\s|&;<>()$`\"'\\*?\[\]{}~#]")
STDERR_TAIL = 4_096
"""Characters of stderr that an error carries; the output holds all that was captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run asks for."""

    command: str
    args: tuple[str, ...] | None
    """None: `command` is a string for the shell."""
    cwd: str
    env: Mapping[str, str]
    timeout_ms: int
    streaming: bool

    @property
    def shown(self) -> str:
        return " ".join((self.command, *(self.args or ())))


class ShellAdapter:
    """
    Args:
        cwd: folder of commands that name none; a request's own may be relative to it. It is not confined to it.
        timeout_ms: for commands that name no other.
        max_output_bytes: kept and streamed from each of stdout and stderr.
        env: for every command, over what is inherited; a request's own comes over that.
        inherit_env: names or patterns let through from the worker's environment; see `process.clean_env`.
        allowed_commands, denied_commands: base names; None means no list. Denied wins.
        success_exit_codes: any other exit fails the run.

    Raises:
        AsmError: `validation_error`: cwd is not an existing folder.
    """

    name = "shell"

    def __init__(
        self,
        cwd: str,
        *,
        timeout_ms: int = 30_000,
        max_output_bytes: int = 1_048_576,
        env: Mapping[str, object] | None = None,
        inherit_env: Sequence[str] = (),
        shell: str = "/bin/sh",
        allowed_commands: Sequence[str] | None = None,
        denied_commands: Sequence[str] | None = None,
        success_exit_codes: Sequence[int] = (0,),
        kill_grace_ms: int = 2_000,
    ) -> None:
        if not isinstance(cwd, str) or not cwd or not Path(cwd).is_dir():
            raise _invalid("cwd", f"cwd must be an existing folder, not {cwd!r}")
        self._cwd, self._shell, self._timeout_ms = cwd, shell, timeout_ms
        self._max_output_bytes, self._kill_grace_ms = max_output_bytes, kill_grace_ms
        self._env = _read_env("env", env)
        self._inherit_env = inherit_env
        self._rules = CommandRules(allowed_commands, denied_commands)
        self._success = frozenset(success_exit_codes)

    def capabilities(self) -> Sequence[Capability]:
        return (
            Capability(name="command_execution", type=CapabilityType.CODE_EXECUTION),
            Capability(name="streaming", type=CapabilityType.SAMPLING),
        )

    def validate_input(self, value: Mapping[str, Any]) -> None:
        self._judged(value)

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        request = self._judged(execution.run.input or {})
        call = _tool_call(execution, request)
        yield RawEvent(EventType.RUN_STARTED, {"cwd": request.cwd, "command": request.shown})
        yield RawEvent(EventType.TOOL_CALL_STARTED, call)
        try:
            async with launch(
                self._argv(request), cwd=request.cwd, env=clean_env(request.env, self._inherit_env),
                limits=self._limits(request),
            ) as child:  # fmt: skip
                async for chunk in child:
                    if request.streaming and chunk.stream == "stdout" and chunk.captured:
                        data = {"content": chunk.captured, "delta": chunk.captured}
                        yield RawEvent(EventType.MESSAGE_STREAMED, data)
        except AsmError as error:
            for item in _did_not_run(call, error):
                yield item
            return
        result = child.result()
        for item in _ended(call, result, self._failure(request, result)):
            yield item

    async def aclose(self) -> None:
        """Holds nothing: a command belongs to its execution."""

    def _judged(self, value: Mapping[str, Any]) -> Request:
        request = self._request(value)
        if request.args is None:
            self._rules.check_script(request.command)
        else:
            self._rules.check_argv([request.command, *request.args])
        return request

    def _request(self, value: Mapping[str, Any]) -> Request:
        """`messages` win over `command`, `command` over `prompt`."""
        if not isinstance(value, Mapping):
            raise AsmError(ErrorCode.INVALID_INPUT, f"the input must be a mapping, not {type(value).__name__}")
        if value.get("messages") is not None or "command" not in value:
            return self._with_options(_script_of(value), None, {})
        command = value["command"]
        if not isinstance(command, str) or not command.strip():
            raise _invalid("input.command", "input.command is required: text that is not empty")
        if value.get("args") is not None:
            return self._with_options(command, _read_args(value["args"]), value)
        command = command.strip()
        return self._with_options(command, None if NEEDS_SHELL.search(command) else (), value)

    def _with_options(self, command: str, args: tuple[str, ...] | None, value: Mapping[str, Any]) -> Request:
        cwd, timeout_ms = value.get("cwd") or ".", value.get("timeout_ms")
        if not isinstance(cwd, str):
            raise _invalid("input.cwd", f"cwd must be text, not {cwd!r}")
        if timeout_ms is None:
            timeout_ms = self._timeout_ms
        if type(timeout_ms) is not int or not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            raise _invalid("input.timeout_ms", f"timeout_ms must be 1 to {MAX_TIMEOUT_MS}, not {timeout_ms!r}")
        if "\0" in "".join((command, cwd, *(args or ()))):
            raise _invalid("input.command", "a command cannot contain NUL")
        return Request(
            command=command,
            args=args,
            cwd=str(Path(self._cwd, cwd)),
            env=self._env | _read_env("input.env", value.get("env")),
            timeout_ms=timeout_ms,
            streaming=value.get("streaming") is not False,
        )

    def _argv(self, request: Request) -> list[str]:
        if request.args is not None:
            return [request.command, *request.args]
        is_like_option = request.command.startswith(("-", "+"))
        return [self._shell, "-c", f" {request.command}" if is_like_option else request.command]

    def _limits(self, request: Request) -> Limits:
        return Limits(
            timeout_ms=request.timeout_ms,
            max_output_bytes=self._max_output_bytes,
            kill_grace_ms=self._kill_grace_ms,
        )

    def _failure(self, request: Request, result: CommandResult) -> AsmError | None:
        if result.timed_out:
            code, reason = ErrorCode.TIMEOUT, "command_timeout"
            message = f"Command timed out after {request.timeout_ms}ms"
        elif result.exit_code not in self._success:
            code, reason = ErrorCode.TOOL_EXECUTION_FAILED, "command_failed"
            message = f"Command exited with code {result.exit_code}"
        else:
            return None
        provider_error = {
            "provider": "shell",
            "kind": reason,
            "message": message,
            "exit_code": result.exit_code,
            "stderr": result.stderr[-STDERR_TAIL:],
            "truncated": len(result.stderr) > STDERR_TAIL or result.stderr_truncated,
        }
        details = {"reason": reason, "exit_code": result.exit_code, "duration_ms": result.duration_ms}
        return AsmError(code, message, details=details, provider_error=provider_error)


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})


def _script_of(value: Mapping[str, Any]) -> str:
    """The contents of the user's messages, or the prompt, as one shell string."""
    check_messages(value)
    for message in value.get("messages") or ():
        if not isinstance(message["content"], str):
            raise AsmError(ErrorCode.INVALID_INPUT, "the shell takes messages of plain text only")
    said = [message["content"] for message in input_messages(value) if message["role"] == "user"]
    if script := "\n".join(said).strip():
        return script
    raise _invalid("input.command", "input.command is required (or a prompt, or messages of the user)")


def _read_args(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(arg, str | int | float) for arg in value):
        raise _invalid("input.args", "args must be a list of texts and numbers")
    return tuple(str(arg) for arg in value)


def _read_env(field: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise _invalid(field, f"{field} must map names to texts or numbers")
    env = {str(name): str(item) for name, item in value.items()}
    for name, item in env.items():
        if not name or "=" in name or "\0" in name + item:
            raise _invalid(field, f"{field} cannot hold {name!r}")
    return env


def _tool_call(execution: Execution, request: Request) -> dict[str, Any]:
    digest = blake2b(f"{execution.run.id}|{execution.attempt}".encode(), digest_size=8).hexdigest()
    args = [*(request.args or ())]
    return {
        "tool_call_id": f"tc_{digest}",
        "tool_name": "bash",
        "tool_input": {"command": request.command, "args": args, "cwd": request.cwd},
    }


def _did_not_run(call: dict[str, Any], error: AsmError) -> Iterator[Item]:
    output = {"output": "", "stderr": "", "exit_code": None, "duration_ms": 0}
    yield RawEvent(EventType.TOOL_CALL_FAILED, call | {"tool_output": output})
    yield _error_event(error)
    kept = {"content": "", "exit_code": None, "stderr": "", "duration_ms": 0, "timed_out": False, "tool_calls": []}
    yield Completion(output=kept, data={"exit_code": None, "duration_ms": 0}, error=error)


def _ended(call: dict[str, Any], result: CommandResult, error: AsmError | None) -> Iterator[Item]:
    code, took = result.exit_code, {"exit_code": result.exit_code, "duration_ms": result.duration_ms}
    output = {"output": result.stdout, "stderr": result.stderr} | took
    if result.timed_out:
        output["timed_out"] = True
    if result.stdout_truncated or result.stderr_truncated:
        output["truncated"] = True
    kind = EventType.TOOL_CALL_FAILED if error else EventType.TOOL_CALL_COMPLETED
    yield RawEvent(kind, call | {"tool_output": output})
    if error:
        yield _error_event(error)
    else:
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": result.stdout, "role": "tool"})
    kept = {"content": result.stdout, "stderr": result.stderr, "timed_out": result.timed_out, "tool_calls": []}
    yield Completion(output=kept | took, data={"stop_reason": f"exit_code_{code}"} | took, error=error)


def _error_event(error: AsmError) -> RawEvent:
    data = {"error_code": str(error.code), "error_message": error.message, "details": error.details}
    return RawEvent(EventType.ERROR_OCCURRED, data)


# --- Allow-list and deny-list ---------------------------------------------------------------------------------------

MAX_NESTING = 16
"""Of substitutions and of shells within shells."""
SHIFT = 0xE000
"""Quoted characters move to a private plane, so that whatever is still in ASCII has its meaning to the shell."""
NO_CHAR = "\ue0ff"
"""Stands where quotes were: `""` is a word."""
TO_QUOTED = {code: SHIFT + code for code in range(128)}
FROM_QUOTED: dict[int, int | None] = {SHIFT + code: code for code in range(128)} | {ord(NO_CHAR): None}

OPERATOR_CHARS = "();<>|&\n"
OPERATORS = re.compile(r"&>>?|&&|\|\||\|&|<<<?|>>|>&|<&|<>|>\||;;?&?|[;&|()<>\n]")
SEPARATORS = frozenset(("\n", ";", "&", "&&", "|", "||", "|&", "(", ")"))
REDIRECTIONS = frozenset(("<", ">", ">>", ">|", "<>", ">&", "<&"))
KEYWORDS = frozenset(("!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done"))
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
EXPANSION = re.compile(r"[$*?\[\]{}~]")
SIMPLE_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
IO_NUMBER = re.compile(r"(?:^|(?<=[\s();<>|&]))[0-9]+\Z")

NOT_JUDGED = frozenset(
    "eval . source alias trap fc bind complete compgen enable hash mapfile readarray "
    "for case select function coproc [[ esac in".split()
)
"""Builtins that run text or change what names mean, and grammar that this parser leaves out."""
SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"))
FIND_RUNS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))


class Wrapper(NamedTuple):
    """A command that runs the command in its arguments; options it does not list here are refused."""

    flags: str = ""
    values: str = ""
    """Options that take a value."""
    long: tuple[str, ...] = ()
    """Long options; `=` at the end: takes a value."""
    operands: int = 0
    assignments: bool = False


WRAPPERS: Mapping[str, Wrapper] = {
    "env": Wrapper("i0v", "uC", ("--ignore-environment", "--unset=", "--chdir="), assignments=True),
    "sudo": Wrapper("nEHkSbA", "ugpCTD", ("--user=", "--group=", "--preserve-env"), assignments=True),
    "doas": Wrapper("n", "uC"),
    "nohup": Wrapper(),
    "exec": Wrapper("cl", "a"),
    "command": Wrapper("pvV"),
    "builtin": Wrapper(),
    "time": Wrapper("pavq", "fo"),
    "xargs": Wrapper("0rtpxo", "nLPsdEa", ("--null", "--no-run-if-empty", "--max-args=", "--max-procs=")),
    "nice": Wrapper("0123456789", "n", ("--adjustment=",)),
    "ionice": Wrapper("t", "cn"),
    "timeout": Wrapper("vfp", "sk", ("--foreground", "--preserve-status", "--signal=", "--kill-after="), 1),
    "setsid": Wrapper("cfw", "", ("--fork", "--wait")),
    "stdbuf": Wrapper("", "ioe"),
    "busybox": Wrapper(),
}
"""Each has to pass the lists itself, too."""


class CommandRules:
    """
    Judges commands by base name.

    Args:
        allowed, denied: names, or paths of which the base name counts; None: no such list. Denied wins.
    """

    def __init__(self, allowed: Iterable[str] | None, denied: Iterable[str] | None) -> None:
        self._allowed = None if allowed is None else frozenset(map(_base_name, allowed))
        self._denied = None if denied is None else frozenset(map(_base_name, denied))

    @property
    def is_set(self) -> bool:
        return self._allowed is not None or self._denied is not None

    def check_argv(self, argv: Sequence[str]) -> None:
        """Raises `policy_violation`: a command executed directly, without a shell."""
        if self.is_set:
            self._check_command([quoted(_plain(arg)) for arg in argv], 0)

    def check_script(self, script: str, depth: int = 0) -> None:
        """Raises `policy_violation`: a string for a POSIX shell or bash, with every command in it."""
        if not self.is_set:
            return
        scanner = Scanner(_plain(script), depth)
        scanner.scan()
        for part in scanner.parts:
            for words in simple_commands(part):
                self._check_command(_from_command_position(words), depth)

    def _check_command(self, words: list[str], depth: int) -> None:
        """Down through the wrappers to the command itself."""
        if depth > MAX_NESTING:
            _refuse("commands nested too deep")
        fed = False
        while words:
            name = self._judge(words[0])
            if name in SHELLS:
                return self.check_script(_string_of_shell(words[1:]), depth + 1)
            if name == "find":
                return self._check_find(words[1:], fed, depth)
            if name not in WRAPPERS:
                return None
            words = _unwrap(words[1:], WRAPPERS[name])
            if name == "time":
                words = _from_command_position(words)
            if fed and not words:
                _refuse("a command that xargs reads from its input")
            fed = fed or name == "xargs"
        return None

    def _check_find(self, words: list[str], fed: bool, depth: int) -> None:
        if fed or any("$" in word for word in words):
            _refuse("arguments of find that are not literal")
        for place, word in enumerate(words):
            if plain(word) in FIND_RUNS:
                self._check_command(words[place + 1 :], depth + 1)

    def _judge(self, word: str) -> str:
        name = _base_name(_literal(word))
        if not name or "{}" in name or name in NOT_JUDGED:
            _refuse(f"{plain(word)!r}")
        if self._denied is not None and name in self._denied:
            _violation("command_denied", f"the command {name!r} is denied", name)
        if self._allowed is not None and name not in self._allowed:
            _violation("command_not_allowed", f"the command {name!r} is not in the allow-list", name)
        return name


class Scanner:
    """Takes the quoting out of a shell string; `parts` are the string itself and each command substitution in it."""

    def __init__(self, text: str, depth: int) -> None:
        self.parts: list[str] = []
        self._text, self._depth, self._at = text, depth, 0

    def scan(self, closing: str = "") -> None:
        """From the place reached to the end, or behind the unmatched `closing`."""
        if self._depth > MAX_NESTING:
            _refuse("substitutions nested too deep")
        out, open_parens = "", 0
        while (char := self._next()) != closing or open_parens:
            open_parens += {"(": 1, ")": -1}.get(char, 0)
            out = self._take(char, out)
        self.parts.append(out)

    def _next(self) -> str:
        """The next character; empty at the end."""
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _take(self, char: str, out: str) -> str:
        match char:
            case "":
                _refuse("unbalanced quotes or parentheses")
            case "'":
                return out + quoted(self._until("'"))
            case '"':
                return out + self._double_quoted()
            case "\\":
                return out + self._escaped()
            case "`":
                return out + self._backquoted(in_quotes=False)
            case "$":
                return out + self._dollar(in_quotes=False)
            case "<" | ">":
                return IO_NUMBER.sub("", out) + char
            case "#" if not out or out[-1] in f" \t{OPERATOR_CHARS}":
                _refuse("comments")
        if not char.isprintable() and char not in "\t\n":
            _refuse(f"the character {char!r}")
        return out + char

    def _until(self, closing: str) -> str:
        end = self._text.find(closing, self._at)
        if end < 0:
            _refuse("unbalanced quotes")
        inside, self._at = self._text[self._at : end], end + 1
        return inside

    def _escaped(self) -> str:
        char = self._next()
        if char in ("", "\n"):
            _refuse("continued lines")
        return quoted(char)

    def _double_quoted(self) -> str:
        out = NO_CHAR
        while (char := self._next()) != '"':
            match char:
                case "":
                    _refuse("unbalanced quotes")
                case "$":
                    out += self._dollar(in_quotes=True)
                case "`":
                    out += self._backquoted(in_quotes=True)
                case "\\":
                    escaped = self._escaped()
                    out += escaped if plain(escaped) in '$`"\\' else quoted("\\") + escaped
                case _:
                    out += quoted(char)
        return out

    def _dollar(self, in_quotes: bool) -> str:
        """An expansion becomes a bare `$` and is never part of a name; the commands in it are parts of their own."""
        rest = self._text[self._at :]
        if rest.startswith(("((", "[")) or (rest.startswith(("'", '"')) and not in_quotes):
            _refuse(f"${rest[0]}")
        if rest.startswith("("):
            self._at += 1
            inner = Scanner(self._text, self._depth + 1)
            inner._at = self._at
            inner.scan(")")
            self.parts += inner.parts
            self._at = inner._at
        elif rest.startswith("{"):
            parameter = SIMPLE_PARAMETER.match(rest) or _refuse("${…} other than a name")
            self._at += parameter.end()
        return "$"

    def _backquoted(self, in_quotes: bool) -> str:
        inside = self._until("`")
        if "\\" in inside or (in_quotes and '"' in inside):
            _refuse("quoting within backquotes")
        inner = Scanner(inside, self._depth + 1)
        inner.scan()
        self.parts += inner.parts
        return "$"


def simple_commands(part: str) -> Iterator[list[str]]:
    """The words of each command, without redirections; `part` comes from the scanner."""
    lexer = shlex.shlex(part, posix=True, punctuation_chars=OPERATOR_CHARS)
    lexer.whitespace, lexer.commenters, lexer.quotes, lexer.escape = " \t", "", "", ""
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in lexer:
        if token[0] not in OPERATOR_CHARS:
            words += [] if redirected else [token]
            redirected = False
            continue
        for operator in OPERATORS.findall(token):
            is_definition = operator == "(" and not KEYWORDS.issuperset(words)
            if redirected or is_definition or operator not in SEPARATORS | REDIRECTIONS:
                _refuse(f"{token!r}")
            if operator in REDIRECTIONS:
                redirected = True
            else:
                yield words
                words = []
    if redirected:
        _refuse("a redirection to nothing")
    yield words


def quoted(text: str) -> str:
    return NO_CHAR + text.translate(TO_QUOTED)


def plain(word: str) -> str:
    return word.translate(FROM_QUOTED)


def _plain(text: str) -> str:
    """Raises when the text itself has characters from where quoted ones are kept."""
    if any(SHIFT <= ord(char) <= ord(NO_CHAR) for char in text):
        _refuse("characters for private use")
    return text


def _literal(word: str) -> str:
    if EXPANSION.search(word):
        _refuse(f"the expansion in {plain(word)!r}")
    return plain(word)


def _base_name(command: str) -> str:
    return command.rpartition("/")[2]


def _from_command_position(words: list[str]) -> list[str]:
    """Without the keywords, then the assignments, in front of a command."""
    start = 0
    while words[start:] and words[start] in KEYWORDS:
        start += 1
    while words[start:] and ASSIGNMENT.match(words[start]):
        start += 1
    return words[start:]


def _unwrap(words: list[str], wrapper: Wrapper) -> list[str]:
    """The command in a wrapper's arguments; empty when there is none."""
    left = iter(range(len(words)))
    operands = wrapper.operands
    for place in left:
        word = _literal(words[place])
        if word == "--":
            operands += 0
        elif word.startswith("-") and word != "-":
            if _takes_next(word, wrapper):
                _literal(words[next(left, place)])
        elif not (wrapper.assignments and "=" in word):
            if not operands:
                return words[place:]
            operands -= 1
    return []


def _takes_next(option: str, wrapper: Wrapper) -> bool:
    """Whether the word behind the option is its value."""
    name, has_value, _ = option.partition("=")
    if name.startswith("--"):
        if name in wrapper.long and not has_value:
            return False
        if f"{name}=" in wrapper.long:
            return not has_value
    else:
        letters = option[1:].lstrip(wrapper.flags)
        if not letters or letters[0] in wrapper.values:
            return len(letters) == 1
    _refuse(f"the option {option!r}")


def _string_of_shell(words: list[str]) -> str:
    """The string that a shell called with these arguments runs."""
    has_string = False
    left = iter(words)
    for word in map(_literal, left):
        if word in ("--norc", "--noprofile", "--posix", "--login", "--"):
            continue
        if not word.startswith(("-", "+")):
            if has_string and "{}" not in word:
                return word
            break
        if set(word[1:]) - set("aceflmouvxBCEH"):
            break
        has_string = has_string or "c" in word
        if "o" in word:
            next(left, None)
    _refuse("a shell that is not given a literal string by -c")


def _refuse(what: str) -> NoReturn:
    _violation("command_not_parsed", f"cannot be judged while commands are restricted: {what}", what)


def _violation(reason: str, message: str, command: str) -> NoReturn:
    raise AsmError(ErrorCode.POLICY_VIOLATION, message, details={"reason": reason, "command": command})
