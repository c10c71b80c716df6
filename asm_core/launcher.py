"""
Starts one command for a worker, and sees to it that nothing of the command outlives its own end or the worker's.

    python -I -S launcher.py CONTROL GRACE_MS LC_CTYPE CWD COMMAND ARG…

The worker gives a clean environment, the command's stdin, stdout and stderr, and CONTROL: a socket whose other end it
alone holds. Where something between the two starts this module, which passes neither on, CONTROL is the path of the
worker's socket, and the environment comes over that (`agent_process.py`). The command runs in a session of its own.
This process is the *subreaper* of everything below it: a descendant that daemonizes (double fork, setsid) becomes its
child instead of init's, so "no child left" means "no descendant left", and the tree below it in /proc is all that there
is to kill.

Stopping (TERM to every descendant, KILL after the grace, then exit) begins when

- the worker asks for it, by the line `<grace in ms>` on CONTROL; a shorter grace may follow,
- the worker's end of CONTROL closes, which the kernel does however the worker dies,
- this process gets TERM, INT or HUP,
- CONTROL was a path, and the process that was started with it has ended, however (see `stand_in`),
- the command ends: what it left running in the background is stopped too. Nothing outlives its run.

Should this process itself be killed, the command gets KILL from the kernel (PDEATHSIG), and the worker kills the
command's group. What moved to another session before that is the one thing that can escape, besides processes that the
command has some other service start for it.

Tells the worker on CONTROL, a line each: `forked PID`, before the command can do anything; `started` or
`failed cwd|exec ERRNO`; `exited CODE`. Exits with CODE, 128+n for a command that signal n ended. A worker that forks
without exec would hold the socket twice: do not.

Every command pays for this module's imports, so it uses the C modules below `os`, `signal` and `ctypes` (which would
double the time), keeps annotations plain and ends without finalization. Without prctl or /proc (not Linux) it
still guards the command's process group.

Source: DESIGN §4.
"""

import errno
import posix
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PAUSE_S = 0.02
"""Between two rounds of KILL; doubles up to MAX_PAUSE_S while something cannot die."""
MAX_PAUSE_S = 1.0
KILL_PASSES = 100
"""Over the tree, in one round."""
LONGEST_ADDRESS = 100
"""Bytes of a socket's path that every system takes."""
DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
SEARCH_GOES_ON = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: list[str]) -> int:
    where, grace_ms, lc_ctype, cwd, *command = argv[1:]
    starter = stand_in() if "/" in where else None
    if starter is None:
        control = int(where)
        posix.set_inheritable(control, False)
        restore_locale(lc_ctype)
    else:
        control = connect(where)
        take_environment(control)
    is_subreaper = prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = watch_signals()
    pid, failure = start(cwd, command, control)
    if failure:
        tell(control, b"failed " + failure)
        return 127
    tell(control, b"started")
    for fd in (0, 1, 2):  # the command's alone: its closing them must be seen at the other end
        posix.close(fd)
    supervisor = Supervisor(control, wake, starter, pid, int(grace_ms) / 1000)
    code = supervisor.run()
    if not is_subreaper:
        send(-pid, signal.SIGKILL)
    return code


def stand_in() -> int:
    """
    Go on in a child of this process; returns a descriptor whose end is that of this process.

    Whoever has started this process may kill it at once, and would so take the subreaper from what it watches over.
    """
    starter, alive = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        posix.close(alive)
        posix.setsid()
        return starter
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    for fd in (0, 1, 2, starter):
        posix.close(fd)
    posix._exit(exit_code(posix.waitpid(pid, 0)[1]))


def connect(path: str) -> int:
    """A connection to the worker; the end of this process where that is gone, or does not want the command any more."""
    from _socket import AF_UNIX, SOCK_STREAM, socket

    worker = socket(AF_UNIX, SOCK_STREAM)
    try:
        if len(path.encode(errors="surrogateescape")) > LONGEST_ADDRESS:
            folder, _, name = path.rpartition("/")
            path = f"/proc/self/fd/{posix.open(folder, posix.O_RDONLY)}/{name}"
        worker.connect(path)
    except OSError:
        posix._exit(127)
    return worker.detach()


def take_environment(control: int) -> None:
    """From the worker: NAME=VALUE, each with a NUL behind it, and an empty one at the end."""
    given = b""
    while not given.endswith(b"\0\0"):
        part = posix.read(control, 65536)
        if not part:
            posix._exit(127)
        given += part
    posix.environ.clear()
    for entry in filter(None, given.split(b"\0")):
        name, _, value = entry.partition(b"=")
        posix.environ[name] = value


def prctl(option: int, value: int) -> bool:
    try:
        from _ctypes import call_function, dlopen, dlsym

        function = dlsym(dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return bool(call_function(function, (option, value, 0, 0, 0)) == 0)
    except (ImportError, OSError):
        return False


def watch_signals() -> int:
    """A descriptor that gets a byte for every child that ends and every request to stop."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    wake, notify = posix.pipe()
    posix.set_blocking(notify, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    return wake


def restore_locale(lc_ctype: str) -> None:
    """Python's start may have set LC_CTYPE (PEP 538); the command gets what the worker gave."""
    if lc_ctype:
        posix.environ[b"LC_CTYPE"] = lc_ctype.encode(errors="surrogateescape")
    else:
        posix.environ.pop(b"LC_CTYPE", None)


def start(cwd: str, command: list[str], control: int) -> tuple[int, bytes]:
    """The command's pid, and why it did not start; empty when it runs."""
    launcher = posix.getpid()
    answer, failed = posix.pipe()
    may_go, go = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        posix.close(go)
        try:
            posix.write(failed, become(cwd, command, launcher, may_go))
        finally:
            posix._exit(127)
    posix.close(failed)
    posix.close(may_go)
    tell(control, b"forked %d" % pid)
    tell(go, b"")
    posix.close(go)
    failure = posix.read(answer, 100)  # its end is the success of exec
    posix.close(answer)
    return pid, failure


def become(cwd: str, command: list[str], launcher: int, may_go: int) -> bytes:
    """In the forked child: turn into the command. Returns only if that fails."""
    posix.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if posix.getppid() != launcher:  # it died before the line above
        posix._exit(127)
    if not posix.read(may_go, 1):  # it died before the worker knew whom to kill then
        posix._exit(127)
    for number in signal.valid_signals():  # Python ignores some, a worker in the background of a shell ignores others
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        posix.chdir(cwd)
    except OSError as problem:
        return b"cwd %d" % (problem.errno or 0)
    return b"exec %d" % execute(command)


def execute(command: list[str]) -> int:
    """The errno of an exec that failed; the search along PATH is that of execvp."""
    folders = [""] if "/" in command[0] else search_path(posix.environ.get(b"PATH", DEFAULT_PATH))
    found = errno.ENOENT
    for folder in folders:
        try:
            posix.execve(folder + command[0], command, posix.environ)
        except OSError as problem:
            if problem.errno not in SEARCH_GOES_ON:
                return problem.errno or 0
            found = errno.EACCES if problem.errno == errno.EACCES else found
    return found


def search_path(path: bytes) -> list[str]:
    return [(folder or ".") + "/" for folder in path.decode(errors="surrogateescape").split(":")]


class Supervisor:
    """Waits for the command or a request to stop; ends when no descendant is left."""

    def __init__(self, control: int, wake: int, starter: int | None, command: int, grace_s: float) -> None:
        self.control, self.wake, self.command, self.grace_s = control, wake, command, grace_s
        self.code = 128 + signal.SIGKILL
        self.kill_at: float | None = None
        self.pause_s = PAUSE_S
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.poll.register(wake, select.POLLIN)
        if starter is not None:
            self.poll.register(starter, select.POLLIN)

    def run(self) -> int:
        while self.reap():
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.kill_all()
                self.kill_at = time.monotonic() + self.pause_s
                self.pause_s = min(self.pause_s * 2, MAX_PAUSE_S)
            self.wait()
        return self.code

    def reap(self) -> bool:
        """Collect what has ended. False when no descendant is left."""
        ended = False
        try:
            while True:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
                if pid == 0:
                    break
                if pid == self.command:
                    ended = True
                    self.code = exit_code(status)
                    tell(self.control, b"exited %d" % self.code)
        except ChildProcessError:
            return False
        if ended:
            self.stop(self.grace_s)
        return True

    def wait(self) -> None:
        left_s = None if self.kill_at is None else max(0.0, self.kill_at - time.monotonic())
        for fd, _ in self.poll.poll(None if left_s is None else left_s * 1000):
            if fd == self.control:
                self.hear()
            elif fd != self.wake:
                self.poll.unregister(fd)
                self.stop(self.grace_s)
            elif set(posix.read(fd, 4096)) & set(STOP_SIGNALS):
                self.stop(self.grace_s)

    def hear(self) -> None:
        """The worker's request, or its end."""
        try:
            said = posix.read(self.control, 4096)
        except OSError:
            said = b""
        if not said:
            self.poll.unregister(self.control)
        graces = [int(line) / 1000 for line in said.split()]
        self.stop(min(graces, default=self.grace_s))

    def stop(self, grace_s: float) -> None:
        kill_at = time.monotonic() + grace_s
        if self.kill_at is None:
            self.kill_at = kill_at
            self.signal_all(signal.SIGTERM)
            self.signal_all(signal.SIGCONT)  # what is stopped takes TERM only then
        self.kill_at = min(self.kill_at, kill_at)

    def signal_all(self, number: int) -> None:
        for pid in descendants(posix.getpid()) or [-self.command]:
            send(pid, number)

    def kill_all(self) -> None:
        """Without a pause while new processes turn up: what forks is killed faster than it grows."""
        self.signal_all(signal.SIGKILL)
        killed: set[int] = set()
        for _ in range(KILL_PASSES):
            new = set(descendants(posix.getpid())) - killed
            if not new:
                return
            for pid in new:
                send(pid, signal.SIGKILL)
            killed |= new


def descendants(root: int) -> list[int]:
    found: dict[int, None] = {}
    unread = [root]
    while unread:
        new = [pid for pid in children(unread.pop()) if pid not in found]
        found.update(dict.fromkeys(new))
        unread += new
    return [*found]


def children(pid: int) -> list[int]:
    """Empty for a process that has just gone."""
    text = b""
    try:
        for task in posix.listdir(f"/proc/{pid}/task"):
            text += read_file(f"/proc/{pid}/task/{task}/children")
    except OSError:
        pass
    return [int(word) for word in text.split()]


def read_file(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY)
    try:
        text = b""
        while part := posix.read(fd, 65536):
            text += part
        return text
    finally:
        posix.close(fd)


def send(pid: int, number: int) -> None:
    try:
        posix.kill(pid, number)
    except OSError:  # it is gone already, or is somebody else's now
        return


def exit_code(status: int) -> int:
    return 128 + posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else posix.WEXITSTATUS(status)


def tell(control: int, line: bytes) -> None:
    try:
        posix.write(control, line + b"\n")
    except OSError:  # whoever it was for is gone, which will be seen
        return


if __name__ == "__main__":
    posix._exit(main(sys.argv))
