"""fork(): what a child inherits is dead, the parent's goes on, and a listening socket may be shared."""

from __future__ import annotations

from textwrap import dedent

import pytest

from helpers import LONG, output_of

START = """
    import os, sys, warnings
    # Python warns of a fork in a program that has OS threads, such as those of gevent's pool.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    import gevent, gevent.os
    from gevent import socket
    import ratchet
    from ratchet import bus, thread

    LONG = {long}

    def check(condition, what):
        if not condition:
            os.write(2, (str(what) + "\\n").encode())
            os._exit(1)

    def in_child(child):
        # The exit code of a forked process that runs this.
        pid = {fork}()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            child()
        except BaseException as error:
            check(False, repr(error))
        os._exit(0)
"""

each_fork = pytest.mark.parametrize("fork", ["os.fork", "gevent.os.fork"])


def check_program(fork: str, program: str) -> None:
    """The program ends well, with its last line and nothing else."""
    assert output_of(dedent(START).format(long=LONG, fork=fork) + dedent(program)) == "well\n"


@each_fork
def test_a_child_s_inherited_client_is_closed_and_not_one_byte_of_it_reaches_the_parent_s_server(
    fork: str,
) -> None:
    check_program(
        fork,
        """
        ours, theirs = socket.socketpair()
        client = bus.new_client(ours, plain=True)
        before = client.send_request(b"before")
        theirs.settimeout(LONG)
        check(theirs.recv(1000) == b"\\0\\1\\0\\0\\0\\6before", "the first request")

        def child():
            for call in (client.call, client.send_request, client.cast):
                try:
                    call(b"from the child")
                except ratchet.BusClosed as error:
                    check(error.outcome == "NOT_SENT", error.outcome)
                    check("fork" in str(error), error)
                else:
                    check(False, "no error")
            try:
                before.recv_response(1)
            except ratchet.BusClosed:
                pass
            else:
                check(False, "an answer in the child")
            before.cancel()
            client.close()

        check(in_child(child) == 0, "the child failed")
        theirs.settimeout(0)
        try:
            check(False, theirs.recv(1000))
        except BlockingIOError:
            pass
        theirs.settimeout(LONG)
        theirs.sendall(b"\\0\\1\\0\\0\\0\\5after")
        check(before.recv_response(LONG) == b"after", "the answer")
        after = client.send_request(b"again")
        check(theirs.recv(1000) == b"\\0\\1\\0\\0\\0\\5again", "the next request")
        theirs.sendall(b"\\0\\1\\0\\0\\0\\4good")
        check(after.recv_response(LONG) == b"good", "the next answer")
        client.close()
        theirs.close()
        print("well")
        """,
    )


@each_fork
def test_a_child_does_not_close_a_client_that_its_parent_has_dropped(fork: str) -> None:
    check_program(
        fork,
        """
        ours, theirs = socket.socketpair()
        client = bus.new_client(ours)
        theirs.settimeout(LONG)
        check(theirs.recv(1000), "the hello")
        client.cast(b"first")
        # It is still to leave when the client is dropped.
        client.cast(b"second")
        warnings.simplefilter("ignore", ResourceWarning)
        del client

        def child():
            for _ in range(5):
                gevent.sleep(0)

        check(in_child(child) == 0, "the child failed")
        theirs.settimeout(0)
        came = theirs.recv(1000)
        check(came.endswith(b"first"), came)
        theirs.settimeout(LONG)
        check(theirs.recv(1000).endswith(b"second"), "the second cast")
        check(theirs.recv(1000) == b"", "the end")
        print("well")
        """,
    )


@each_fork
def test_a_child_s_inherited_client_does_not_reconnect_and_a_new_one_works(fork: str) -> None:
    check_program(
        fork,
        """
        with bus.listen(("127.0.0.1", 0)) as server, bus.connect(server.address) as client:
            serving = gevent.spawn(server.serve, bytes)
            check(client.call(b"before", LONG) == b"before", "before")

            def child():
                try:
                    client.call(b"from the child", LONG)
                except ratchet.BusClosed as error:
                    check(error.outcome == "NOT_SENT", error.outcome)
                else:
                    check(False, "no error")
                check(client.stats().connections == 0, client.stats())

            check(in_child(child) == 0, "the child failed")
            check(client.call(b"after", LONG) == b"after", "after")
            check(server.stats().connections == 1, server.stats())
            check(server.stats().answered == 2, server.stats())
        serving.join(LONG)
        print("well")
        """,
    )


def test_threads_of_the_parent_do_not_run_in_the_child() -> None:
    check_program(
        "gevent.os.fork",
        """
        def run():
            while True:
                thread.timer(0.01)
                check(os.getpid() == parent, "a thread of the parent ran in the child")
                turns.append(1)

        def wait_for_answer():
            try:
                client.call(b"question")
            finally:
                check(os.getpid() == parent, "a thread that waits ended in the child")

        def child():
            ran = []
            kernel = ratchet.Ratchet()
            for number in range(5):
                kernel.attach(lambda: (thread.timer(0.02), ran.append(1)))
            kernel.loop()
            check(len(ran) == 5, ran)
            check(kernel.num_threads == 0, kernel.num_threads)

        parent = os.getpid()
        turns = []
        ours, theirs = socket.socketpair()
        client = bus.new_client(ours)
        kernel = ratchet.Ratchet()
        kernel.attach_background(run)
        kernel.attach_background(wait_for_answer)
        while len(turns) < 3:
            gevent.sleep(0.01)
        check(in_child(child) == 0, "the child failed")
        before = len(turns)
        while len(turns) < before + 3:
            gevent.sleep(0.01)
        kernel.close()
        client.close()
        theirs.close()
        print("well")
        """,
    )


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
@pytest.mark.parametrize("inherited", [True, False], ids=["the bus", "the socket"])
def test_two_children_serve_from_one_listening_socket(family: str, inherited: bool) -> None:
    check_program(
        "gevent.os.fork",
        f"""
        import tempfile

        folder = tempfile.TemporaryDirectory()
        listener = socket.socket(socket.{family})
        listener.bind(("127.0.0.1", 0) if {family!r} == "AF_INET" else folder.name + "/bus")
        listener.listen()
        name = listener.getsockname()
        if {inherited}:
            server = bus.new_server(listener)
        """
        + """
        def child():
            child_server = server if "server" in globals() else bus.new_server(listener)

            def handler(request, transaction):
                if request == b"stop":
                    transaction.send_response(b"")
                    gevent.spawn(child_server.drain, LONG)
                return str(os.getpid()).encode()

            child_server.serve(handler, workers=2)

        pids = []
        for _ in range(2):
            # Not gevent's, which would wait for its children itself.
            pid = os.fork()
            if not pid:
                try:
                    gevent.reinit()
                    child()
                except BaseException as error:
                    check(False, repr(error))
                os._exit(0)
            pids.append(pid)
        if "server" in globals():
            server.close()
        answered = []
        for _ in range(2):
            ours = socket.socket(socket.AF_INET if isinstance(name, tuple) else socket.AF_UNIX)
            ours.connect(name)
            with bus.new_client(ours) as client:
                answered.append(int(client.call(b"who?", LONG)))
                # The other one goes on alone.
                check(client.call(b"stop", LONG) == b"", "stop")
            check(os.waitstatus_to_exitcode(os.waitpid(answered[-1], 0)[1]) == 0, "the child failed")
        check(sorted(answered) == sorted(pids), (answered, pids))
        listener.close()
        folder.cleanup()
        print("well")
        """,
    )


def test_an_inherited_server_leaves_the_parent_s_connections_alone() -> None:
    check_program(
        "gevent.os.fork",
        """
        with bus.listen(("127.0.0.1", 0)) as server, bus.connect(server.address) as client:
            sent = client.send_request(b"question")
            transaction, _ = server.recv_request(LONG)

            def child():
                check(server.stats()[:3] == (0, 0, 0), server.stats())
                server.close()

            check(in_child(child) == 0, "the child failed")
            check(server.stats().connections == 1, server.stats())
            check(transaction.send_response(b"answer") is True, "too late")
            check(sent.recv_response(LONG) == b"answer", "the answer")
            serving = gevent.spawn(server.serve, bytes)
            check(client.call(b"after", LONG) == b"after", "after")
        serving.join(LONG)
        print("well")
        """,
    )


def test_what_the_parent_s_clients_have_sent_takes_no_room_in_a_child_that_serves() -> None:
    check_program(
        "gevent.os.fork",
        """
        limits = bus.Limits(max_message=64_000, max_queued_bytes=64_000)
        with bus.listen(("127.0.0.1", 0), limits=limits) as server:
            clients = [bus.connect(server.address) for _ in range(4)]
            for client in clients:
                client.cast(bytes(20_000))
            with gevent.Timeout(LONG):
                while server.stats().queued < 4:
                    gevent.sleep(0.001)

            def child():
                serving = gevent.spawn(server.serve, lambda request: b"%d" % len(request), workers=1)
                client = bus.connect(server.address)
                check(client.call(bytes(20_000), LONG) == b"20000", "the answer")
                client.close()
                server.close()
                serving.join()

            check(in_child(child) == 0, "the child failed")
            for client in clients:
                client.close()
        print("well")
        """,
    )


each_address = pytest.mark.parametrize(
    "address",
    ["127.0.0.1:0", "unix:{folder}/bus", "unix:\0{folder}"],
    ids=["tcp", "unix", "unix without a file"],
)

LISTEN = """
        def connect(address):
            # A socket and the number of its error.  The system's own does not let the hub run.
            is_tcp = isinstance(address, tuple)
            connecting = bare_socket.socket(bare_socket.AF_INET if is_tcp else bare_socket.AF_UNIX)
            return connecting, connecting.connect_ex(address if is_tcp else address.removeprefix("unix:"))

        folder = tempfile.TemporaryDirectory()
        server = bus.listen({address!r}.format(folder=folder.name))
        address = server.address
"""


@each_fork
@each_address
def test_a_child_accepts_no_client_of_its_parent_s_server(fork: str, address: str) -> None:
    check_program(
        fork,
        "import socket as bare_socket, tempfile\n"
        + dedent(LISTEN).format(address=address)
        + dedent(
            """
        # It asks to be accepted, and until the child has gone, only the child's hub runs.
        asking, error = connect(address)
        check(error == 0, error)

        def child():
            # It does not touch the bus.
            gevent.sleep(0.02)

        check(in_child(child) == 0, "the child failed")
        serving = gevent.spawn(server.serve, bytes)
        with bus.new_client(asking) as client:
            check(client.call(b"question", LONG) == b"question", "the answer")
        server.close()
        serving.join(LONG)
        folder.cleanup()
        print("well")
        """
        ),
    )


@each_fork
@each_address
def test_a_child_does_not_keep_alive_the_address_that_its_parent_s_server_has_closed(
    fork: str, address: str
) -> None:
    check_program(
        fork,
        "import errno, socket as bare_socket, tempfile\n"
        + dedent(LISTEN).format(address=address)
        + dedent(
            f"""
        other_name = address
        if os.listdir(folder.name):
            # The bus removes the file of its socket, but not this one.
            other_name = "unix:" + folder.name + "/other"
            os.link(address.removeprefix("unix:"), other_name.removeprefix("unix:"))
        gone, here = os.pipe()
        pid = {fork}()
        if not pid:
            # Until the parent ends, whatever becomes of it.
            os.close(here)
            os.read(gone, 1)
            os._exit(0)
        server.close()
        refused, error = connect(other_name)
        refused.close()
        check(error == errno.ECONNREFUSED, error)
        # On Linux a name without a file is free again when its last holder has gone.
        if "\\0" not in address:
            with bus.listen(address) as server, bus.connect(address) as client:
                serving = gevent.spawn(server.serve, bytes)
                check(client.call(b"question", LONG) == b"question", "the answer")
            serving.join(LONG)
        folder.cleanup()
        print("well")
        """
        ),
    )


@each_fork
@pytest.mark.parametrize("codec", ["None", "bus.codecs.text"])
def test_an_inherited_local_bus_is_dead_in_the_child_and_goes_on_in_the_parent(fork: str, codec: str) -> None:
    check_program(
        fork,
        f"""
        local, _ = bus.new_local(codec={codec})
        before = local.send_request("before")
        queued = local.send_request("queued")
        transaction, _ = local.recv_request(LONG)

        def child():
            calls = {{
                "cast": lambda: local.cast("of the child"),
                "send_request": lambda: local.send_request("of the child"),
                "call": lambda: local.call("of the child"),
                "recv_request": local.recv_request,
                "recv_response": before.recv_response,
                "recv_response of what is queued": queued.recv_response,
            }}
            with gevent.Timeout(2):
                for name, call in calls.items():
                    try:
                        call()
                    except ratchet.BusClosed as error:
                        check("fork" in str(error) or name == "recv_request", error)
                    else:
                        check(False, name + " works in the child")
                # As on any bus that is closed.
                check(local.serve(str.upper) is None, "serve")
                check(local.drain(), "drain")
                check(transaction.send_response("of the child") is False, "the child answered")
            check(local.stats()[:3] == (0, 0, 0), local.stats())

        check(in_child(child) == 0, "the child failed")
        check(local.stats()[:3] == (0, 1, 1), local.stats())
        check(transaction.send_response("answer") is True, "too late")
        serving = gevent.spawn(local.serve, str.upper)
        check(before.recv_response(LONG) == "answer", "the answer")
        check(queued.recv_response(LONG) == "QUEUED", "the next answer")
        check(local.call("after", LONG) == "AFTER", "after")
        local.close()
        serving.join(LONG)
        print("well")
        """,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_that_an_unpatched_child_opens_connects_and_calls(host: str) -> None:
    check_program(
        "os.fork",
        f"""
        with bus.listen("127.0.0.1:0") as server:
            serving = gevent.spawn(server.serve, bytes)
            where = ({host!r}, server.address[1])
            # The parent has looked up a name, and waited for a connection, before.
            with bus.connect(("localhost", server.address[1])) as client:
                check(client.call(b"of the parent", LONG) == b"of the parent", "of the parent")

            pid = os.fork()
            if not pid:
                with gevent.Timeout(2), bus.connect(where) as client:
                    check(client.call(b"of the child", 1) == b"of the child", "of the child")
                os._exit(0)
            ended, status = 0, None
            while not ended:
                ended, status = os.waitpid(pid, os.WNOHANG)
                gevent.sleep(0)
            check(status == 0, status)
            check(server.stats().answered == 2, server.stats())
        serving.join(LONG)
        print("well")
        """,
    )


def test_a_transaction_that_a_child_inherited_is_not_answered_by_it() -> None:
    check_program(
        "gevent.os.fork",
        """
        with bus.listen(("127.0.0.1", 0)) as server, bus.connect(server.address) as client:
            sent = client.send_request(b"question")
            transaction, _ = server.recv_request(LONG)

            def child():
                check(transaction.send_response(b"of the child") is False, "the child answered")

            check(in_child(child) == 0, "the child failed")
            gevent.sleep(0)
            check(not sent.done, "answered by the child")
            check(transaction.send_response(b"of the parent") is True, "too late")
            check(sent.recv_response(LONG) == b"of the parent", "the answer")
        print("well")
        """,
    )


SLEEPERS = """
        import gevent.event, gevent.lock, gevent.pool, gevent.queue, gevent.subprocess

        event, queue, full = gevent.event.Event(), gevent.queue.Queue(), gevent.queue.Queue(1)
        semaphore, result = gevent.lock.Semaphore(0), gevent.event.AsyncResult()
        ours, theirs = socket.socketpair()
        full.put(1)
        plain = gevent.spawn(event.wait)
        WAYS = [
            lambda: gevent.sleep(0.05),
            lambda: gevent.sleep(0),
            lambda: event.wait(),
            lambda: event.wait(0.05),
            lambda: queue.get(),
            lambda: queue.get(timeout=0.05),
            lambda: full.put(2),
            lambda: semaphore.acquire(),
            lambda: result.get(),
            lambda: ours.recv(1),
            lambda: gevent.socket.wait_read(ours.fileno(), timeout=0.05),
            lambda: plain.join(),
            lambda: plain.get(timeout=0.05),
            lambda: gevent.joinall([plain]),
            lambda: gevent.wait([event, plain]),
            lambda: gevent.get_hub().threadpool.apply(threading.Event().wait, (0.05,)),
            lambda: thread.timer(0.05),
            lambda: thread.pause(),
            lambda: thread.wait_all([plain], 0.05),
            lambda: thread.block_on([ours]),
            lambda: thread.sigwait("USR1"),
            lambda: ratchet.Ratchet(lambda: event.wait()).loop(),
        ]
        parent = os.getpid()

        def sleep(way, number):
            with gevent.Timeout(0.05, False):
                thread.alarm(0.05)
                try:
                    way()
                finally:
                    check(os.getpid() == parent, f"finally block {number} of the parent's ran in the child")
                    return

        def wake_all():
            event.set()
            for _ in range(3):
                queue.put(1)
                semaphore.release()
            full.get()
            result.set(1)
            theirs.send(b"x")
            gevent.sleep(0.1)
"""


@each_fork
@pytest.mark.parametrize("started", [True, False], ids=["asleep", "not started"])
def test_no_finally_block_of_a_thread_runs_in_the_child_wherever_it_sleeps(fork: str, started: bool) -> None:
    check_program(
        fork,
        "import threading\n"
        + dedent(SLEEPERS)
        + dedent(
            f"""
        kernel = ratchet.Ratchet()
        for number, way in enumerate(WAYS):
            kernel.attach(sleep, way, number)
        killed = kernel.attach(sleep, WAYS[2], "under way to its end")
        if {started}:
            kernel.loop_once(noblock=True)
        # A kill that is under way is the parent's too.
        killed.kill(block=False)

        pid = {fork}()
        if not pid:
            kernel.close()
            wake_all()
            check(kernel.num_threads == 0, kernel.dump())
            # Nothing that the parent waits for keeps the child's hub busy.
            before = os.times().user
            gevent.sleep(0.1)
            check(os.times().user - before < 0.08, "the child's hub spins")
            # It ends as any program does: no finally block runs then either.
            sys.exit()
        status = os.waitpid(pid, 0)[1]
        check(status == 0, status)
        wake_all()
        kernel.close()
        ours.close()
        theirs.close()
        print("well")
        """
        ),
    )


@each_fork
@pytest.mark.parametrize("patch", ["", "monkey.patch_all()"], ids=["unpatched", "patched"])
def test_the_thread_that_forked_goes_on_in_a_handler_too(fork: str, patch: str) -> None:
    assert (
        output_of(
            f"""
            from gevent import monkey
            {patch}
            import os, gevent, gevent.os, ratchet
            from ratchet import bus, thread

            def handle(request):
                pid = {fork}()
                if not pid:
                    # With all that a thread may do, a scheduler and a bus of its own among it.
                    gevent.sleep(0.01)
                    thread.timer(0.01)
                    gevent.get_hub().threadpool.apply(int)
                    own_server, own_client = bus.new_local()
                    thread.attach_background(own_server.serve, str.upper)
                    print(own_client.call("the child goes on", timeout={LONG}), flush=True)
                    os._exit(0)
                try:
                    while not os.waitpid(pid, os.WNOHANG)[0]:
                        thread.timer(0.01)
                except ChildProcessError:
                    # gevent has waited for it already.
                    pass
                return request

            def main():
                server, client = bus.new_local()
                thread.attach_background(server.serve, handle)
                return client.call("the parent goes on", timeout={LONG})

            print(ratchet.run(main))
            """
        )
        == "THE CHILD GOES ON\nthe parent goes on\n"
    )


def test_a_child_of_multiprocessing_runs_none_of_its_parent_s_threads() -> None:
    check_program(
        "os.fork",
        """
        import multiprocessing

        def wait():
            try:
                gevent.sleep(0.05)
            finally:
                check(os.getpid() == parent, "a finally block of the parent's ran in the child")

        def child():
            gevent.sleep(0.1)
            ran = []
            ratchet.Ratchet(lambda: ran.append(1)).loop()
            check(ran == [1], "a thread of the child did not run")

        parent = os.getpid()
        kernel = ratchet.Ratchet()
        kernel.attach(wait)
        kernel.loop_once(noblock=True)
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(LONG)
        check(process.exitcode == 0, process.exitcode)
        kernel.loop()
        print("well")
        """,
    )


def test_one_object_that_cannot_be_left_to_the_parent_does_not_spare_the_others() -> None:
    check_program(
        "os.fork",
        """
        import logging

        class Failing:
            _hub = None

            def _after_fork(self):
                raise KeyError("it fails")

        def wait():
            try:
                thread.timer(0.01)
            finally:
                check(os.getpid() == parent, "a finally block of the parent's ran in the child")

        def child():
            gevent.sleep(0.05)
            check(kernel.num_threads == 0, kernel.dump())
            check(logged == ["cannot leave Failing to the parent"], logged)

        from ratchet._alive import schedulers

        logged = []
        handler = logging.Handler()
        handler.emit = lambda record: logged.append(record.getMessage())
        logging.getLogger("ratchet").addHandler(handler)
        parent = os.getpid()
        failing = Failing()
        schedulers.add(failing)
        kernel = ratchet.Ratchet(wait)
        kernel.loop_once(noblock=True)
        check(in_child(child) == 0, "the child failed")
        kernel.loop()
        print("well")
        """,
    )


def test_an_unpatched_child_shares_nothing_of_its_parent_s_polling() -> None:
    check_program(
        "os.fork",
        """
        def child():
            # Of the child's own; were the descriptor shared, the parent would be told of it.
            mine, other = socket.socketpair()
            with mine, other:
                reading = gevent.spawn(mine.recv, 1)
                gevent.sleep(0.01)
                check(gevent.socket.getaddrinfo("127.0.0.1", 80), "the resolver's pool is dead")
                other.send(b"x")
                check(reading.get(timeout=LONG) == b"x", "the child does not read")

        ours, theirs = socket.socketpair()
        gevent.socket.getaddrinfo("127.0.0.1", 80)
        gevent.sleep(0)
        check(in_child(child) == 0, "the child failed")
        theirs.send(b"y")
        check(ours.recv(1) == b"y", "the parent does not read")
        ours.close()
        theirs.close()
        print("well")
        """,
    )


def test_a_signal_that_a_thread_of_the_parent_waits_for_is_the_child_s_own_again() -> None:
    check_program(
        "os.fork",
        """
        import signal

        def child():
            os.kill(os.getpid(), signal.SIGUSR1)
            gevent.sleep(0.01)
            check(seen == [os.getpid()], seen)
            try:
                thread.unpause(paused)
            except ratchet.NotPaused:
                pass
            else:
                check(False, "a thread of the parent was unpaused")

        seen = []
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(os.getpid()))
        kernel = ratchet.Ratchet()
        waits = kernel.attach(thread.sigwait, "USR1")
        paused = kernel.attach(thread.pause)
        kernel.loop_once(noblock=True)
        check(in_child(child) == 0, "the child failed")
        os.kill(os.getpid(), signal.SIGUSR1)
        thread.unpause(paused)
        kernel.loop()
        check((waits.value, seen) == (True, []), seen)
        print("well")
        """,
    )


HELLO_OF_A_SERVER = """
        from ratchet.bus._socket import wire

        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = bus.connect(listener.getsockname())
        server = listener.accept()[0]
        server.sendall(wire.encode_hello(wire.Hello(max_in_flight={max_in_flight})))
        client.wait_connected(LONG)
"""


@each_fork
def test_a_child_reads_no_answer_of_a_draining_server_in_its_parent_s_place(fork: str) -> None:
    check_program(
        fork,
        HELLO_OF_A_SERVER.format(max_in_flight=10)
        + """
        sent = client.send_request(b"question", LONG)
        gevent.sleep(0.02)
        server.sendall(wire.encode(wire.GOAWAY, 0, sent.id, 0, ()))
        connections = client._servers.connections
        while not any(connection.protocol.state.name == "DRAINING" for connection in connections):
            gevent.sleep(0.001)
        # It comes while the parent does not look.
        server._sock.send(wire.encode(wire.RESPONSE, 0, sent.id, 0, [b"answer"]))
        check(in_child(lambda: gevent.sleep(0.2)) == 0, "the child failed")
        check(sent.recv_response(LONG) == b"answer", "the parent's answer is lost")
        client.close()
        server.close()
        listener.close()
        print("well")
        """,
    )


@each_fork
def test_greenlets_that_wait_because_a_server_takes_no_more_do_not_wake_in_a_child(fork: str) -> None:
    check_program(
        fork,
        HELLO_OF_A_SERVER.format(max_in_flight=1)
        + """
        parent = os.getpid()

        def ask():
            try:
                client.call(b"question", LONG)
            except bus_closed:
                pass
            finally:
                check(os.getpid() == parent, "a finally block of the parent's ran in the child")

        bus_closed = ratchet.BusClosed
        asking = [gevent.spawn(ask) for _ in range(3)]
        gevent.sleep(0.02)
        check(in_child(lambda: gevent.sleep(0.05)) == 0, "the child failed")
        client.close()
        gevent.joinall(asking, timeout=LONG)
        server.close()
        listener.close()
        print("well")
        """,
    )


@each_fork
def test_what_other_os_threads_submit_is_the_parents_alone(fork: str) -> None:
    check_program(
        fork,
        """
        from gevent.event import Event

        def refused(call):
            try:
                call()
            except ratchet.WrongThread as error:
                return "belongs to the parent process" in str(error)
            return False

        ran, told, go = [], [], Event()
        kernel = ratchet.Ratchet()
        running = kernel.submit(go.wait, LONG)
        gevent.sleep(0)
        queued = kernel.submit(ran.append, 1)
        queued.add_done_callback(told.append)
        # Another OS thread, of which the child has no copy, may hold the lock of a future.
        running._condition.acquire()
        queued._condition.acquire()

        def child():
            check(refused(lambda: kernel.submit(ran.append, 2)), "a submission was taken")
            check(refused(lambda: running.result(LONG)), "no error of the one that ran")
            check(refused(lambda: queued.result(LONG)), "no error of the one that was queued")
            gevent.sleep(0.01)
            check(ran == told == [], "the parent's work was done")
            with kernel:
                future = kernel.submit(ran.append, 3)
            check(future.done() and ran == [3], "nothing was taken though it runs here")

        check(in_child(child) == 0, "the child failed")
        running._condition.release()
        queued._condition.release()
        go.set()
        check(running.result(LONG) is True, "the one that ran")
        queued.result(LONG)
        check(ran == [1] and told == [queued], "the one that was queued")
        print("well")
        """,
    )
