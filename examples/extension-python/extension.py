"""An extension in Python: it labels every sandbox and leases it a number, which the sandbox finds in TICKET.

    mkdir -p stubs /run/python-tickets
    python -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python -m grpc_tools.protoc -I ../../proto --python_out=stubs --grpc_python_out=stubs \
        chiton/v1/extension.proto
    PYTHONPATH=stubs venv/bin/python extension.py /run/python-tickets/socket

The gateway's file names its socket and its config:

    [compute]
    extensions = ["python-tickets"]
    [compute.process."python-tickets"]
    socket = "/run/python-tickets/socket"
    [compute.extension."python-tickets"]
    folder = "/var/lib/python-tickets"
    count = 100
    label = "example.com/ticket"

The contract is `proto/chiton/v1/extension.proto`; the rules that every extension keeps are in `docs/extensions.md`.
"""

import collections
import contextlib
import json
import os
import signal
import sys
import threading
from concurrent import futures

import grpc
from chiton.v1 import extension_pb2 as pb
from chiton.v1 import extension_pb2_grpc as rpc

NAME = "python-tickets"
PHASES = ["prepare_plan", "before_create", "on_create_failed", "after_delete"]
OPTIONS = {"folder": {"type": "string"}, "count": {"type": "integer", "minimum": 1}, "label": {"type": "string"}}
SCHEMA = {"type": "object", "properties": OPTIONS, "required": list(OPTIONS), "additionalProperties": False}

ENDS = {signal.SIGTERM, signal.SIGINT}


class Refused(Exception):
    pass


class Steps:
    """What runs and what may not begin: the truth behind Fence. A gateway releases what a sandbox holds behind it."""

    def __init__(self):
        self.changed, self.running = threading.Condition(), {}
        # The newest are enough: what a fence refuses was on its way when the fence came.
        self.refused = collections.deque(maxlen=10_000)
        self.fenced, self.draining = collections.OrderedDict(), False

    def look_again(self):
        with self.changed:
            self.changed.notify_all()

    @contextlib.contextmanager
    def begin(self, start, context):
        step, key = start.step, (start.step.gateway_run, start.step.call)
        about = (step.extension, start.subject.SerializeToString(deterministic=True))
        alive = context.add_callback(self.look_again)
        with self.changed:
            while True:
                # Given up while it waited: nobody reads its answer, and its gateway goes on without it.
                if not (alive and context.is_active()):
                    raise Refused(grpc.StatusCode.CANCELLED, "the call is over")
                if self.draining:
                    raise Refused(grpc.StatusCode.UNAVAILABLE, "this process ends")
                welcome = self.fenced.get((step.operation, step.extension), step.gateway_run)
                if key in self.refused or welcome != step.gateway_run:
                    raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "the step was fenced off")
                # A step of one life of the gateway waits for those of its other lives on the same subject.
                if not any(at == about and other[0] != key[0] for other, (at, _) in self.running.items()):
                    break
                self.changed.wait()
            self.running[key] = (about, step)
        try:
            yield
        finally:
            with self.changed:
                del self.running[key]
                self.changed.notify_all()

    def fence(self, request):
        with self.changed:
            if request.HasField("step"):
                key = (request.step.gateway_run, request.step.call)
                self.refused.append(key)
                self.changed.notify_all()
                self.changed.wait_for(lambda: key not in self.running)
                return
            fence = request.operation
            names = (fence.operation, fence.extension)
            self.fenced[names] = fence.gateway_run
            if len(self.fenced) > 10_000:
                self.fenced.popitem(last=False)
            old = lambda step: (step.operation, step.extension) == names and step.gateway_run != fence.gateway_run
            self.changed.wait_for(lambda: not any(old(step) for _, step in self.running.values()))

    def drain(self, seconds):
        with self.changed:
            self.draining = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.running, timeout=seconds)


def holder(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as lease:
        return lease.read()


def lease(config, sandbox):
    """The number that the sandbox has, else a new one. Called twice, it answers the same."""
    paths = {number: os.path.join(config["folder"], str(number)) for number in range(1, config["count"] + 1)}
    for number, path in paths.items():
        if holder(path) == sandbox:
            return number
    # Whole or not at all: a name of its own first, then the number's, which only one can have.
    own = os.path.join(config["folder"], sandbox + ".new")
    with open(own, "w", encoding="utf-8") as new:
        new.write(sandbox)
    try:
        for number, path in paths.items():
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
                return number
    finally:
        os.unlink(own)
    return None


def free(config, sandbox):
    for name in os.listdir(config["folder"]):
        path = os.path.join(config["folder"], name)
        if name == sandbox + ".new" or holder(path) == sandbox:
            os.unlink(path)


class Extension(rpc.ExtensionServicer):
    def __init__(self):
        self.steps, self.instances = Steps(), {}

    def Describe(self, request, context):
        if request.name != NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, f"this is {NAME}")
        return pb.DescribeExtensionResponse(
            name=NAME, version="0.1.0", summary="A label, and a number for every sandbox", phases=PHASES,
            needs=pb.ExtensionNeeds(points=["label", "env"]), state_schema=1, local_effects=True, concurrency=8,
            config_schema_json=json.dumps(SCHEMA),
        )

    def Configure(self, request, context):
        config = json.loads(request.document_json)
        if not os.path.isdir(config.get("folder", "")):
            issue = pb.ExtensionConfigIssue(pointer="/folder", message="there is no such folder", cure="make it")
            return pb.ConfigureExtensionResponse(issues=[issue])
        if request.dry_run:
            return pb.ConfigureExtensionResponse()
        self.instances[request.digest] = config
        return pb.ConfigureExtensionResponse(instance_id=request.digest)

    def config(self, instance, context):
        if instance not in self.instances:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such instance")
        return self.instances[instance]

    def Prepare(self, request, context):
        config = self.config(request.instance_id, context)
        env = pb.PortableOp(env=pb.KeyValue(key="TICKET", value=f"<known after apply: {NAME}.number>"))
        label = pb.PortableOp(label=pb.KeyValue(key="example.com/tickets", value=config["label"]))
        writes = [pb.PlanWriteOp(portable=write) for write in (env, label)]
        return pb.PrepareHookResponse(writes=writes, slots=[pb.SlotDeclaration(name="number")])

    def Run(self, inputs, context):
        start = next(inputs).start
        config = self.config(start.instance_id, context)
        try:
            with self.steps.begin(start, context):
                result = self.hook(config, start.step.phase, start.sandbox.id)
        except Refused as refused:
            context.abort(*refused.args)
        except OSError as error:
            failure = pb.Failure(**{"class": pb.Failure.RETRYABLE}, message=f"the leases cannot be used: {error}")
            result = pb.RunResult(failure=failure)
        # Behind the step's end: nothing of it runs when the gateway has the answer.
        yield pb.RunHookOutput(result=result)

    def hook(self, config, phase, sandbox):
        if phase != "before_create":
            free(config, sandbox)
            return pb.RunResult(done=pb.RunDone())
        number = lease(config, sandbox)
        if number is None:
            failure = pb.Failure(**{"class": pb.Failure.EXHAUSTED}, resource="tickets", message="all are taken")
            return pb.RunResult(failure=failure)
        return pb.RunResult(slots=pb.SlotValuesView(values={"number": str(number)}))

    def Fence(self, request, context):
        self.steps.fence(request)
        return pb.FenceResponse()


def main(socket):
    # For all threads from here on: one that gRPC makes would take the signal, and this one sleep on.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    # More threads than hooks at once: a fence must be heard while they run.
    server, extension = grpc.server(futures.ThreadPoolExecutor(max_workers=32)), Extension()
    rpc.add_ExtensionServicer_to_server(extension, server)
    os.umask(0o177)  # the socket is for this user alone
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print(f"listening on {socket}", file=sys.stderr, flush=True)
    signal.sigwait(ENDS)
    extension.steps.drain(30)  # the socket answers fences until the last hook is over
    server.stop(grace=10).wait()  # what the last hooks and fences answer is on its way; it ends with the last answer


if __name__ == "__main__":
    main(sys.argv[1])
