"""What everyday programs ask of the kernel. Prints the name of each thing that works; a failure ends it."""
import asyncio, fcntl, mmap, multiprocessing, os, pty, select, signal, socket, sqlite3, subprocess, sys, tempfile, threading
import ctypes, time
from multiprocessing import shared_memory

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def square(number):
    return number * number


def threads():
    seen = []
    workers = [threading.Thread(target=lambda n=n: seen.append(n)) for n in range(20)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert sorted(seen) == list(range(20))


def processes():
    with multiprocessing.Pool(3) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    assert subprocess.run(["sh", "-c", "echo $((6*7)) | cat"], capture_output=True).stdout == b"42\n"
    assert subprocess.run(["false"], preexec_fn=os.setsid).returncode == 1


def memory():
    area = shared_memory.SharedMemory(create=True, size=4096)
    area.buf[0] = 7
    again = shared_memory.SharedMemory(name=area.name)
    assert again.buf[0] == 7
    again.close(), area.close(), area.unlink()
    with mmap.mmap(-1, 1 << 16) as anonymous:
        anonymous.write(b"x")
        anonymous.madvise(mmap.MADV_DONTNEED)
    check(libc.shmget(0, 4096, 0o1600))


def database():
    with tempfile.TemporaryDirectory() as folder:
        base = sqlite3.connect(os.path.join(folder, "base"))
        base.execute("pragma journal_mode=wal")
        base.execute("create table t(n)")
        base.executemany("insert into t values(?)", [(n,) for n in range(1000)])
        base.commit()
        assert base.execute("select sum(n) from t").fetchone() == (499500,)


def waiting():
    ours, theirs = socket.socketpair()
    poll = select.epoll()
    poll.register(ours, select.EPOLLIN)
    theirs.send(b"x")
    assert poll.poll(5)
    counter = os.eventfd(1)
    assert os.eventfd_read(counter) == 1
    check(libc.timerfd_create(1, 0))
    watch = check(libc.inotify_init1(0))
    with tempfile.TemporaryDirectory() as folder:
        check(libc.inotify_add_watch(watch, folder.encode(), 0x100))
        open(os.path.join(folder, "new"), "w").close()
        assert b"new" in os.read(watch, 4096)
    caught = []
    signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    # Again and again: a single one may come between the look and the pause.
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    while not caught:
        signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)


def copying():
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "a"), os.path.join(folder, "b")
        with open(source, "wb") as file:
            file.write(b"y" * 100000)
        first, second = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
        assert os.copy_file_range(first, second, 1000) == 1000
        assert os.sendfile(second, first, 0, 1000) == 1000
        end, start = os.pipe()
        assert os.splice(first, start, 500, offset_src=0) == 500
        held = os.memfd_create("held")
        os.write(held, b"z")
        os.posix_fallocate(second, 0, 4096)
        fcntl.flock(second, fcntl.LOCK_EX)
        fcntl.lockf(second, fcntl.LOCK_EX)
        os.setxattr(target, "user.note", b"1")
        os.link(source, source + "2"), os.symlink(source, source + "3"), os.mkfifo(source + "4")
        os.rename(target, target + "2"), os.utime(source), os.chmod(source, 0o600), os.chown(source, 0, 0)
        os.makedirs(os.path.join(folder, "x/y")), os.rename(source, os.path.join(folder, "x/y/a"))


def terminal():
    said = []
    read = lambda fd: said.append(os.read(fd, 1024)) or said[-1]
    assert pty.spawn(["sh", "-c", "stty size; tty; echo done"], read, lambda fd: b"") == 0
    assert b"/dev/pts/" in b"".join(said) and b"done" in b"".join(said)


async def network():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        server = await asyncio.start_server(answer, host, 0, family=family)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        writer.close(), server.close()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    udp.sendto(b"x", udp.getsockname())
    assert udp.recv(10) == b"x"
    assert socket.if_nameindex()[0][1] == "lo"
    assert socket.getaddrinfo("localhost", 80)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0name"), abstract.listen()
    socket.socket(socket.AF_UNIX).connect("\0name")


def main():
    for work in (threads, processes, memory, database, waiting, copying, terminal):
        work()
        print(work.__name__, flush=True)
    asyncio.run(network())
    print("network", flush=True)


if __name__ == "__main__":
    main()
