"""fork(): what a child inherits is dead, the parent's goes on, and a listening socket may be shared."""

from __future__ import annotations

from textwrap import dedent

import pytest

from helpers import LONG, output_of

START = """
    import os, sys
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
