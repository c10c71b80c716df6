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
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple

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
        if not cwd or not Path(str(cwd)).is_dir():
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
    took: dict[str, Any] = {"exit_code": None, "duration_ms": 0}
    kept = {"content": "", "stderr": "", "timed_out": False, "tool_calls": []}
    yield Completion(output=kept | took, data=took, error=error)


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
"""Of substitutions, wrappers and shells within one another."""
MAX_JUDGED = 32_768
"""Characters of a command that is judged."""
SHIFT = 0xE000
"""Quoted characters move to a private plane, so that whatever is still in ASCII has its meaning to the shell."""
NO_CHAR = "\ue0ff"
"""Stands where quotes were: `""` is a word."""
TO_QUOTED = {code: SHIFT + code for code in range(128)}
FROM_QUOTED: dict[int, int | None] = {SHIFT + code: code for code in range(128)} | {ord(NO_CHAR): None}

OPERATOR_CHARS = "();<>|&\n"
WORD_BREAKS = f" \t{OPERATOR_CHARS}"
OPERATORS = re.compile(r"&>>?|&&|\|\||\|&|<<<?|>>|>&|<&|<>|>\||;;?&?|[;&|()<>\n]")
SEPARATORS = frozenset(("\n", ";", "&", "&&", "|", "||", "|&", "(", ")"))
REDIRECTIONS = frozenset(("<", ">", ">>", ">|", "<>", ">&", "<&"))
KEYWORDS = frozenset(("!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done"))
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
EXPANSION = re.compile(r"[$*?\[\]{}~]")
DESCRIPTOR = re.compile(r"[0-9]-?|-")
PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")

TEXT_RUNNERS = ("eval", ".", "source", "alias", "trap", "fc", "bind", "complete", "compgen", "mapfile", "readarray")
NAME_CHANGERS = ("enable", "hash")
OTHER_GRAMMAR = ("for", "case", "select", "function", "coproc", "[[", "esac", "in")
OTHER_SHELLS = ("zsh", "fish", "csh", "tcsh", "mksh")
NOT_JUDGED = frozenset(TEXT_RUNNERS + NAME_CHANGERS + OTHER_GRAMMAR + OTHER_SHELLS)
SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh"))
FIND_RUNS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))


class Wrapper(NamedTuple):
    """A command that runs the command in its arguments; options it does not list here are refused."""

    flags: str = ""
    values: str = ""
    """Options that take a value."""
    long: tuple[str, ...] = ()
    """Long options; `=` at the end: takes a value."""
    operands: int = 0
    """Words before the command."""
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
    "timeout": Wrapper("vfp", "sk", ("--foreground", "--preserve-status", "--signal=", "--kill-after="), operands=1),
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
        self._denied = frozenset(map(_base_name, denied or ()))
        self._is_set = allowed is not None or denied is not None

    def check_argv(self, argv: Sequence[str]) -> None:
        """A command that runs without a shell. Raises `policy_violation`."""
        if self._is_set:
            _check_text("".join(argv))
            self._check_command([quoted(arg) for arg in argv], 0)

    def check_script(self, script: str, depth: int = 0) -> None:
        """A string for a POSIX shell or bash, every command in it. Raises `policy_violation`."""
        if not self._is_set:
            return
        _check_text(script)
        scanner = Scanner(script, depth)
        scanner.scan()
        for part in scanner.parts:
            for words in simple_commands(part):
                self._check_command(_from_command_position(words), depth)

    def _check_command(self, words: list[str], depth: int) -> None:
        """Down through the wrappers to the command itself."""
        fed = False
        while words:
            depth += 1
            if depth > MAX_NESTING:
                raise _refused("commands nested too deep")
            name = self._judge(words[0])
            if name in SHELLS:
                return self.check_script(_string_of_shell(words[1:]), depth)
            if name == "find":
                return self._check_find(words[1:], fed, depth)
            if name not in WRAPPERS:
                return None
            words = _unwrap(words[1:], WRAPPERS[name])
            if name == "time":  # bash's own stands before a whole pipeline, assignments and all
                words = _from_command_position(words)
            if fed and not words:
                raise _refused("a command that xargs reads from its input")
            fed = fed or name == "xargs"
        return None

    def _check_find(self, words: list[str], fed: bool, depth: int) -> None:
        if fed:
            raise _refused("arguments that find takes from xargs")
        inner: list[str] | None = None
        last = ""
        for word in words:
            text = "{}" if word == "{}" else _literal(word)
            if inner is None:
                inner = [] if text in FIND_RUNS else None
            elif text == ";" or (text == "+" and last == "{}"):
                self._check_command(inner, depth)
                inner = None
            else:
                inner.append(word)
            last = text
        self._check_command(inner or [], depth)

    def _judge(self, word: str) -> str:
        name = _base_name(_literal(word))
        if not name or "{}" in name or name in NOT_JUDGED:
            raise _refused(plain(word))
        if name in self._denied:
            raise _violation("command_denied", f"the command {name!r} is denied", name)
        if self._allowed is not None and name not in self._allowed:
            raise _violation("command_not_allowed", f"the command {name!r} is not in the allow-list", name)
        return name


class Scanner:
    """Takes the quoting out of a shell string; `parts` are the string itself and each command substitution in it."""

    def __init__(self, text: str, depth: int, at: int = 0) -> None:
        self.parts: list[str] = []
        self._out: list[str] = []
        self._text, self._depth, self._at = text, depth, at

    def scan(self, closing: str = "") -> int:
        """To the end, or the unmatched `closing`; returns the place behind it."""
        if self._depth > MAX_NESTING:
            raise _refused("substitutions nested too deep")
        open_parens = 0
        while (char := self._next()) != closing or open_parens:
            open_parens += {"(": 1, ")": -1}.get(char, 0)
            self._take(char)
        self.parts.append("".join(self._out))
        return self._at

    def _next(self) -> str:
        """The next character; empty at the end."""
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _take(self, char: str) -> None:
        match char:
            case "":
                raise _refused("unbalanced quotes or parentheses")
            case "'":
                self._out.append(quoted(self._until("'")))
            case '"':
                self._double_quoted()
            case "\\":
                self._out.append(self._escaped())
            case "`" | "$":
                self._expansion(char, in_quotes=False)
            case _:
                self._unquoted(char)

    def _unquoted(self, char: str) -> None:
        if char == "#" and (not self._out or self._out[-1] in WORD_BREAKS):
            raise _refused("comments")
        if not char.isprintable() and char not in "\t\n":
            raise _refused(f"the character {char!r}")
        if char in "<>":
            self._drop_descriptor()
        self._out.append(char)

    def _drop_descriptor(self) -> None:
        """The 2 of `2>file` belongs to the operator; of `22>file` only to that of some shells."""
        start = len(self._out)
        while start and self._out[start - 1] in "0123456789":
            start -= 1
        if not start or self._out[start - 1] in WORD_BREAKS:
            if len(self._out) - start > 1:
                raise _refused("the number of a file descriptor above 9")
            del self._out[start:]

    def _until(self, closing: str) -> str:
        end = self._text.find(closing, self._at)
        if end < 0:
            raise _refused("unbalanced quotes")
        inside, self._at = self._text[self._at : end], end + 1
        return inside

    def _escaped(self) -> str:
        char = self._next()
        if char in ("", "\n"):
            raise _refused("continued lines")
        return quoted(char)

    def _double_quoted(self) -> None:
        self._out.append(NO_CHAR)
        while (char := self._next()) != '"':
            if char == "":
                raise _refused("unbalanced quotes")
            if char in "$`":
                self._expansion(char, in_quotes=True)
            elif char == "\\":
                escaped = self._escaped()
                self._out += [escaped] if plain(escaped) in '$`"\\' else [quoted(char), escaped]
            else:
                self._out.append(quoted(char))

    def _expansion(self, char: str, in_quotes: bool) -> None:
        """Becomes a bare `$`, which is never part of a name; the commands in it are parts of their own."""
        self._out.append("$")
        if char == "`":
            inside = self._until("`")
            if "\\" in inside or (in_quotes and '"' in inside):
                raise _refused("quoting within backquotes")
            self._substitution(Scanner(inside, self._depth + 1), "")
        elif self._text.startswith(("((", "["), self._at):
            raise _refused("arithmetic")
        elif self._text.startswith(("'", '"'), self._at) and not in_quotes:
            raise _refused("quotes behind $")
        elif self._text.startswith("(", self._at):
            self._at = self._substitution(Scanner(self._text, self._depth + 1, self._at + 1), ")")
        elif self._text.startswith("{", self._at):
            parameter = PARAMETER.match(self._text, self._at)
            if not parameter:
                raise _refused("${…} with anything but a name")
            self._at = parameter.end()

    def _substitution(self, inner: Scanner, closing: str) -> int:
        end = inner.scan(closing)
        self.parts += inner.parts
        return end


def simple_commands(part: str) -> Iterator[list[str]]:
    """The words of each command, without redirections; `part` comes from the scanner."""
    lexer = shlex.shlex(part, posix=True, punctuation_chars=OPERATOR_CHARS)
    lexer.whitespace, lexer.commenters, lexer.quotes, lexer.escape = " \t", "", "", ""
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = ""
    for token in lexer:
        if token[0] not in OPERATOR_CHARS:
            if redirected.endswith("&") and not DESCRIPTOR.fullmatch(token):  # bash may expand a quoted one once more
                raise _refused(f"{redirected} to anything but a descriptor")
            words += [] if redirected else [token]
            redirected = ""
            continue
        for operator in OPERATORS.findall(token):
            is_definition = operator == "(" and not KEYWORDS.issuperset(words)
            if redirected or is_definition or operator not in SEPARATORS | REDIRECTIONS:
                raise _refused(token)
            if operator in REDIRECTIONS:
                redirected = operator
            else:
                yield words
                words = []
    if redirected:
        raise _refused("a redirection to nothing")
    yield words


def quoted(text: str) -> str:
    return NO_CHAR + text.translate(TO_QUOTED)


def plain(word: str) -> str:
    return word.translate(FROM_QUOTED)


def _check_text(text: str) -> None:
    if len(text) > MAX_JUDGED:
        raise _refused(f"more than {MAX_JUDGED} characters")
    if any(SHIFT <= ord(char) <= ord(NO_CHAR) for char in text):
        raise _refused("characters for private use")


def _literal(word: str) -> str:
    if EXPANSION.search(word) and word != "[":
        raise _refused(f"the expansion in {plain(word)!r}")
    return plain(word)


def _base_name(command: str) -> str:
    return command.rpartition("/")[2]


def _from_command_position(words: list[str]) -> list[str]:
    """Without the keywords, then the assignments, in front of a command."""
    behind = dropwhile(ASSIGNMENT.match, dropwhile(KEYWORDS.__contains__, words))
    return [*behind]


def _unwrap(words: list[str], wrapper: Wrapper) -> list[str]:
    """The command in a wrapper's arguments; empty when there is none."""
    operands, options_end = wrapper.operands, False
    skip = False
    for place, raw in enumerate(words):
        word = _literal(raw)
        if skip:
            skip = False
        elif word.startswith("-") and (options_end or word == "-"):
            raise _refused(f"{word!r} in this place")
        elif word.startswith("-"):
            options_end = word == "--"
            skip = not options_end and _takes_next(word, wrapper)
        elif wrapper.assignments and "=" in word:
            options_end = True
        elif operands:
            operands, options_end = operands - 1, True
        else:
            return words[place:]
    return []


def _takes_next(option: str, wrapper: Wrapper) -> bool:
    """Whether the word behind the option is its value."""
    name, has_value, _ = option.partition("=")
    letters = option[1:].lstrip(wrapper.flags)
    if name in wrapper.long and not has_value:
        return False
    if f"{name}=" in wrapper.long:
        return not has_value
    if letters and letters[0] not in wrapper.values:
        raise _refused(f"the option {option!r}")
    return len(letters) == 1


def _string_of_shell(words: list[str]) -> str:
    """The string that a shell called with these arguments runs."""
    has_string = skip = False
    for word in map(_literal, words):
        if skip or word in ("--norc", "--noprofile", "--posix", "--login"):
            skip = False
        elif not word.startswith(("-", "+")) and has_string and "{}" not in word:
            return word
        elif not word.startswith("-") or word == "-" or set(word[1:]) - set("aceflmouvxBCE"):
            break
        else:
            has_string, skip = has_string or "c" in word, "o" in word
    raise _refused("a shell that is not given a literal string by -c")


def _refused(what: str) -> AsmError:
    return _violation("command_not_parsed", f"cannot be judged while commands are restricted: {what}", what)


def _violation(reason: str, message: str, command: str) -> AsmError:
    return AsmError(ErrorCode.POLICY_VIOLATION, message, details={"reason": reason, "command": command})
