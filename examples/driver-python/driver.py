#!/usr/bin/env python3
"""A compute driver in one file: each sandbox is a process with a session and a folder of its own.

THERE IS NO ISOLATION: what runs in a sandbox may do all that the user may who runs the driver. This file shows what the
contract (proto/openshell/compute/v1/compute_driver.proto) asks of a driver, and nothing else.

Each sandbox has a keeper (this file again, with `--keep`), which outlives the driver, runs the main process and writes down
how it ended. What a sandbox is lies in STATE/sandboxes/ID/: sandbox.json, run.json (its latest start), token, output, files/.
"""
import argparse, asyncio, contextlib, decimal, difflib, errno, fcntl, fractions, functools, json, math, os, pathlib, re
import resource, shutil, signal, socket, stat, subprocess, sys, tempfile, time, uuid, weakref


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # unless a request says otherwise

def save(path, value):
    """Whole or not at all, and there after a crash of the machine."""
    new = path.with_name(path.name + ".new")
    with open(new, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)

def load(path):
    return json.loads(path.read_text()) if path.exists() else None

def remove(folder):
    """All of it, also what its processes made unreadable for themselves."""
    for path, folders, _ in os.walk(folder):
        for inner in folders:
            os.path.islink(f"{path}/{inner}") or os.chmod(f"{path}/{inner}", 0o700)
    shutil.rmtree(folder)

def identity(pid):
    """Tells a process from a later one of its number: by its start, in ticks since this boot (proc(5))."""
    start = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return {"pid": pid, "start": start, "boot": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()}

def keep(folder):
    driver = socket.socket(fileno=0)
    if driver.recv(1) != b"g":
        return  # The driver died before it wrote down who we are: nobody would ever find what we run.
    asked, run = load(folder / "sandbox.json"), load(folder / "run.json")
    signal.signal(signal.SIGTERM, lambda *_: None)  # A stop is sent to all of the group. It is meant for the others.
    def limits():
        os.umask(0o022)
        os.nice(asked["niceness"])
        if asked["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    environment = {"PATH": PATH, "HOME": str(folder / "files"), **asked["environment"],
                   "SANDBOX_TOKEN_FILE": str(folder / "token")}
    try:
        with open(folder / "output", "wb") as output:
            main = subprocess.Popen(asked["command"], env=environment, cwd=folder / "files", preexec_fn=limits,
                                    stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    except (OSError, subprocess.SubprocessError) as error:
        run |= {"code": 127 if isinstance(error, FileNotFoundError) else 126, "reason": "Exited",
                "message": f"the command cannot be run: {error}"}
    else:
        with contextlib.suppress(OSError):  # The driver may be gone by now.
            driver.send(b"+")
        code = main.wait()
        run |= {"code": 128 - code if code < 0 else code, "reason": "Signaled" if code < 0 else "Exited"}
    save(folder / "run.json", run)
    os.killpg(0, signal.SIGKILL)  # With the main process ends what it left behind.

if sys.argv[1:2] == ["--keep"]:
    sys.exit(keep(pathlib.Path(sys.argv[2])))

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
import grpc
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_tools import protoc

SERVICE = "openshell.compute.v1.ComputeDriver"
INVALID, UNABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
KNOBS = {"niceness": (0, 19), "grace_seconds": (0, 60)}  # driver_config: whole numbers, from and to
LONGEST = 128 << 10  # of one argument or variable, with its end: execve(2)
SMALLEST = 16 << 20  # With less address space no program starts.
QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?", re.ASCII)
SCALES = {suffix: fractions.Fraction(1000) ** (at - 3) for at, suffix in enumerate(["n", "u", "m", "", *"kMGTPE"])}
SCALES |= {suffix + "i": 1024 ** (at + 1) for at, suffix in enumerate("KMGTPE")}

class Refusal(Exception):
    pass

def need(sound, text, code=INVALID):
    if not sound:
        raise Refusal(code, text)

def shown(text):
    """Text from outside in a message: one line, and not an endless one."""
    return json.dumps(text[:80])

def quantity(field, text):
    found = QUANTITY.fullmatch(text)
    need(found, f'{field}: {shown(text)} is no quantity; write for example "500m" or "256Mi"')
    scale = SCALES[found[2] or ""] * fractions.Fraction(10) ** int(found[3] or 0)
    amount = math.ceil(fractions.Fraction(decimal.Decimal(found[1])) * scale)
    need(0 < amount < 1 << 63, f"{field}: quantity {shown(text)} is {'too large' if amount else 'zero'}")
    return amount

def checked_id(name):
    need(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name),
         f"sandbox id {shown(name)} is not valid: use 1 to 63 lower-case letters, digits and inner hyphens")
    return name

def checked(sandbox):
    """What is kept of a request, or why it is refused."""
    spec, template = sandbox.spec, sandbox.spec.template
    checked_id(sandbox.id)
    need(sandbox.HasField("spec"), "sandbox or sandbox.spec is missing")
    need(0 < len(sandbox.name.encode()) < 254, "name is empty or longer than 253 bytes")
    names = {"name": sandbox.name, "namespace": sandbox.namespace, "workspace": sandbox.workspace}
    for what, text in [*names.items(), *template.labels.items()]:
        need(not re.search(r"[\x00-\x1f\x7f-\x9f]", what + text),
             f"name or label {shown(what)}: {shown(text)} has a control character")
    environment = {**template.environment, **spec.environment}
    need(spec.command and spec.command[0], "command is empty, and there are no images here that could bring one")
    for name in environment:
        need(name and "=" not in name, f"environment: {shown(name)} is no name of a variable")
    for text in [*spec.command, *(f"{name}={value}" for name, value in environment.items())]:
        need("\0" not in text and len(text.encode()) < LONGEST,
             f"command or environment: {shown(text)} has a NUL or more than {LONGEST - 1} bytes")
    knobs = MessageToDict(template.driver_config)
    for key, value in knobs.items():
        near = " or ".join(difflib.get_close_matches(key, KNOBS, 1) or KNOBS)
        need(key in KNOBS, f"driver_config: unknown key {shown(key)}; did you mean {near}?")
        low, high = KNOBS[key]
        need(type(value) in (int, float) and value in range(low, high + 1),
             f"driver_config.{key} must be a whole number from {low} to {high}")
    asked = {field.name: quantity(field.name, text) for field, text in template.resources.ListFields()}
    memory = asked.get("memory_limit", 0)
    need(template.image in ("", "host"),
         f"image {shown(template.image)}: only the host's programs are here; leave it out", UNABLE)
    need(not spec.tty and not spec.HasField("resource_requirements") and not spec.secret_environment,
         "terminals, GPUs and secret variables are not to be had here", UNABLE)
    need(not {"cpu_limit", "cpu_request"} & set(asked), "cpu cannot be limited here; there is driver_config.niceness", UNABLE)
    need(asked.get("memory_request", 0) <= memory, "memory_request is more than memory_limit; nothing is reserved here", UNABLE)
    need(not 0 < memory < SMALLEST, f"memory_limit: no program starts with less than {SMALLEST} bytes", UNABLE)
    return {"id": sandbox.id, "name": sandbox.name, "namespace": sandbox.namespace, "workspace": sandbox.workspace,
            "labels": dict(template.labels), "command": list(spec.command), "memory": memory, "environment": environment,
            "niceness": int(knobs.get("niceness", 0)), "grace_seconds": int(knobs.get("grace_seconds", 10))}

class Sandbox:
    """What was asked, the latest start, and while that lasts a handle on its keeper, whoever started it."""

    def __init__(self, folder, changed):
        self.folder, self.changed, self.ended = folder, changed, asyncio.Event()
        self.keeper, self.child, self.killed, self.deleting = None, None, False, False
        self.asked, self.run = load(folder / "sandbox.json"), load(folder / "run.json")
        if self.run and "reason" not in self.run:
            with contextlib.suppress(OSError):  # There is no such process any more.
                keeper = os.pidfd_open(self.run["pid"])
                if identity(self.run["pid"]).items() <= self.run.items():
                    return self.follow(keeper)
                os.close(keeper)
        self.over()

    def follow(self, keeper):
        self.keeper, self.killed = keeper, False
        self.ended.clear()
        asyncio.get_running_loop().add_reader(keeper, self.on_end)  # pidfd_open(2): it can be read when the process ended

    def on_end(self):
        asyncio.get_running_loop().remove_reader(self.keeper)
        os.close(self.keeper)
        with contextlib.suppress(ProcessLookupError):  # A keeper that was killed left the others.
            os.killpg(self.run["pid"], signal.SIGKILL)
        if self.child:
            self.child.wait()
        self.keeper = self.child = None
        self.over()
        self.changed(self)

    def over(self):
        self.run = load(self.folder / "run.json")
        self.ended.set()
        if self.run and "reason" not in self.run:
            here = self.run["boot"] == identity(os.getpid())["boot"]
            self.run |= {"code": 137, "reason": "Signaled"} if self.killed else {
                "reason": "MonitorLost" if here else "HostRestarted", "message": "nobody saw how it ended"}
            save(self.folder / "run.json", self.run)

    async def start(self, spec):
        """Runs the main process. Wherever the driver dies in here, run.json names the keeper or the keeper ends."""
        if spec.sandbox_token:
            (self.folder / "token").write_text(spec.sandbox_token)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            words = [sys.executable, "-ISXutf8", __file__, "--keep", self.folder]
            self.child = subprocess.Popen(words, env={}, start_new_session=True, stdin=theirs,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs.close()
            self.run = identity(self.child.pid) | {"attempt": spec.agent_attempt}
            self.follow(os.pidfd_open(self.child.pid))
            save(self.folder / "run.json", self.run)
            ours.send(b"g")
            if await asyncio.get_running_loop().sock_recv(ours, 1):
                return self.changed(self)
        await self.ended.wait()  # It could not be run, as its record says.

    async def end(self, grace):
        """TERM, KILL when the grace is over, and its end."""
        for number, limit in ([(signal.SIGTERM, grace)] if grace else []) + [(signal.SIGKILL, 10)]:
            if self.keeper:
                self.killed = number == signal.SIGKILL
                os.killpg(self.run["pid"], number)  # Its keeper lives, or was not waited for: the number is its own.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.ended.wait(), limit)
        need(not self.keeper, "its processes do not end, though killed", grpc.StatusCode.DEADLINE_EXCEEDED)

    def seen(self):
        run, ready = self.run or {"reason": "Starting"}, self.keeper is not None
        state, reason = ("running", "Running") if ready else ("exited" if self.run else "created", run["reason"])
        conditions = [{"type": "Ready", "status": str(ready), "reason": reason, "message": run.get("message", "")}]
        if run.get("stopped"):
            conditions.append({"type": "Suspended", "status": "True", "reason": "Stopped"})
        return {**{key: self.asked[key] for key in ("id", "name", "namespace", "workspace")},
                "spec": {"template": {"labels": self.asked["labels"]}},
                "status": {"sandbox_name": self.asked["name"], "instance_id": str(run.get("pid", "")), "conditions": conditions,
                           "deleting": self.deleting, "state": state, "exit_code": run.get("code"),
                           "attempt": run.get("attempt")}}

def answered(call):
    """Refusals and the system's errors as the contract's codes. What has begun goes on when the caller goes away."""
    @functools.wraps(call)
    async def wrapper(driver, request, context):
        task = asyncio.ensure_future(call(driver, request))
        driver.tasks.add(task)
        task.add_done_callback(lambda task: driver.tasks.discard(task) or task.exception())
        try:
            return await asyncio.shield(task)
        except Refusal as refusal:
            await context.abort(*refusal.args)
        except OSError as error:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if error.errno in FULL else grpc.StatusCode.INTERNAL
            await context.abort(code, f"{call.__name__}: {error.strerror}")
    return wrapper

class Driver:
    def __init__(self, state):
        self.folder, self.graves = state / "sandboxes", state / "deleted"
        self.sandboxes, self.tasks, self.watchers, self.locks = {}, set(), set(), weakref.WeakValueDictionary()
        self.folder.mkdir(exist_ok=True)
        self.graves.mkdir(exist_ok=True)
        self.backend = load(state / "backend.json") or str(uuid.uuid4())
        save(state / "backend.json", self.backend)

    async def find_again(self):
        for folder in list(self.folder.iterdir()):
            if (folder / "sandbox.json").exists():
                self.sandboxes[folder.name] = Sandbox(folder, self.changed)
                if (self.graves / folder.name).exists():
                    await self.delete(folder.name)
            else:
                remove(folder)  # A create that came to nothing, or what is left of a delete.

    def changed(self, sandbox):
        self.tell(wire.WatchSandboxesEvent(sandbox={"sandbox": sandbox.seen()}))

    def tell(self, news):
        for watcher in list(self.watchers):
            if watcher.full():  # Nobody reads it. It ends here; who watches anew is told all.
                self.watchers.discard(watcher)
                watcher.get_nowait()
            watcher.put_nowait(news if watcher in self.watchers else None)

    def lock(self, name):
        return self.locks.setdefault(checked_id(name), asyncio.Lock())

    def found(self, name):
        need(checked_id(name) in self.sandboxes, f"there is no sandbox {name}", grpc.StatusCode.NOT_FOUND)
        return self.sandboxes[name]

    async def delete(self, name):
        save(self.graves / name, {})  # First: whatever comes now, it is gone, and its id is never used again.
        sandbox = self.sandboxes.get(name)
        if sandbox:
            sandbox.deleting = True
            self.changed(sandbox)
            await sandbox.end(0)
            await asyncio.to_thread(remove, sandbox.folder)
            del self.sandboxes[name]
            self.tell(wire.WatchSandboxesEvent(deleted={"sandbox_id": name}))
        return sandbox is not None

    @answered
    async def GetCapabilities(self, request):
        return wire.GetCapabilitiesResponse(
            driver_name="example-python", driver_version="0.1.0", default_image="host", contract_version=1,
            plan_fields=["env", "label", "resource"], features={"start_carries_sandbox": True}, backend_id=self.backend)

    @answered
    async def ValidateSandboxCreate(self, request):
        checked(request.sandbox)
        return wire.ValidateSandboxCreateResponse()

    @answered
    async def GetSandbox(self, request):
        return wire.GetSandboxResponse(sandbox=self.found(request.sandbox_id).seen())

    @answered
    async def ListSandboxes(self, request):
        return wire.ListSandboxesResponse(sandboxes=[sandbox.seen() for sandbox in self.sandboxes.values()])

    @answered
    async def CreateSandbox(self, request):
        asked = checked(request.sandbox)
        async with self.lock(name := asked["id"]):
            need(not (self.graves / name).exists(), f"sandbox {name} was deleted; an id is never used again", UNABLE)
            if name not in self.sandboxes:
                (self.folder / name / "files").mkdir(parents=True, exist_ok=True)
                save(self.folder / name / "sandbox.json", asked)
                self.sandboxes[name] = Sandbox(self.folder / name, self.changed)
            if not self.sandboxes[name].run:
                await self.sandboxes[name].start(request.sandbox.spec)
        return wire.CreateSandboxResponse()

    @answered
    async def StartSandbox(self, request):
        async with self.lock(name := request.sandbox_id):
            sandbox = self.found(name)
            need(not sandbox.deleting, f"sandbox {name} is being deleted", UNABLE)
            if request.HasField("sandbox"):
                asked = checked(request.sandbox)
                need(asked["id"] == name, "sandbox_id and sandbox.id are two")
            if not sandbox.keeper:
                if request.HasField("sandbox"):
                    sandbox.asked = asked
                    save(sandbox.folder / "sandbox.json", asked)
                await sandbox.start(request.sandbox.spec)
        return wire.StartSandboxResponse()

    @answered
    async def StopSandbox(self, request):
        async with self.lock(request.sandbox_id):
            sandbox = self.found(request.sandbox_id)
            await sandbox.end(sandbox.asked["grace_seconds"])
            if sandbox.run and not sandbox.run.get("stopped"):
                sandbox.run["stopped"] = True
                save(sandbox.folder / "run.json", sandbox.run)
                self.changed(sandbox)
        return wire.StopSandboxResponse()

    @answered
    async def DeleteSandbox(self, request):
        async with self.lock(request.sandbox_id):
            return wire.DeleteSandboxResponse(deleted=await self.delete(request.sandbox_id))

    async def WatchSandboxes(self, request, context):
        news = asyncio.Queue(1024)
        first = [wire.WatchSandboxesEvent(sandbox={"sandbox": sandbox.seen()}) for sandbox in self.sandboxes.values()]
        self.watchers.add(news)
        try:
            for event in [*first, wire.WatchSandboxesEvent(snapshot_end={})]:
                yield event
            while event := await news.get():
                yield event
        finally:
            self.watchers.discard(news)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this watch is over; watch anew")

    @answered
    async def unused(self, request):
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "this driver has no use for it")

    GetGatewayListenerRequirements = EnsureWorkspace = DeleteWorkspace = unused

async def serve(path, state):
    driver, server, over = Driver(state), grpc.aio.server(), asyncio.Event()
    await driver.find_again()
    calls.add_ComputeDriverServicer_to_server(driver, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    os.chmod(path, 0o600)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    print(f"driver: listening on {path}", file=sys.stderr, flush=True)
    await over.wait()  # Then: nothing new, the watches end, what is under way goes on to its end. Sandboxes stay.
    await healthy.enter_graceful_shutdown()
    for watcher in driver.watchers:
        watcher.put_nowait(None)
    await server.stop(60)

def main():
    global wire, calls
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--socket", type=pathlib.Path, required=True, help="where to listen, in a folder that is ours alone")
    options.add_argument("--state", type=pathlib.Path, required=True, help="the folder in which sandboxes are kept")
    options.add_argument("--proto", help="the folder of the contract",
                         default=pathlib.Path(__file__).resolve().parents[2] / "proto")
    options = options.parse_args()
    os.umask(0o077)  # The socket becomes 0600; so does all that is written, tokens too.
    options.state.mkdir(parents=True, exist_ok=True)
    lock = open(options.state / "lock", "w")
    # One that was killed while it spawned a program left a child that has the lock until the program is executed.
    end = time.monotonic() + 3
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= end:
                sys.exit(f"driver: another one works on {options.state}")
        time.sleep(0.005)
    options.socket.parent.mkdir(parents=True, exist_ok=True)
    folder = options.socket.parent.stat()
    # grpcio does not tell who calls: nobody else may get as far as the socket.
    if folder.st_uid != os.geteuid() or folder.st_mode & 0o077:
        sys.exit(f"driver: {options.socket.parent} is not ours alone; chown it to this user and chmod it 0700")
    if options.socket.exists() and not stat.S_ISSOCK(options.socket.lstat().st_mode):
        sys.exit(f"driver: {options.socket} is there and no socket")
    with tempfile.TemporaryDirectory() as made:
        includes = [f"-I{options.proto}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
        made_of = SERVICE.rpartition(".")[0].replace(".", "/") + "/compute_driver.proto"
        if protoc.main(["", *includes, f"--python_out={made}", f"--grpc_python_out={made}", made_of]):
            sys.exit("driver: the contract cannot be compiled; name its folder by --proto")
        sys.path.append(made)
        from openshell.compute.v1 import compute_driver_pb2 as wire, compute_driver_pb2_grpc as calls
    asyncio.run(serve(options.socket, options.state))

if __name__ == "__main__":
    main()
