"""The parts of the PostgreSQL port that need no server: arithmetic, texts, files, processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgcore.builtin import basebackup, initdb
from pgcore.clock import Deadline
from pgcore.errors import CancelledError, CommandFailedError, ServerError
from pgcore.hookspecs import ReplicaRequest
from pgcore.model.basics import Lsn, Role
from pgcore.model.node import ControlState, DataDir, WalReceiver
from pgcore.model.server import Credentials, ServerSettings, Upstream
from pgcore.postgres import controldata, creation, data_dir, files, local, parameters, postmaster, recovery, rewind, timeline
from pgcore.postgres.lookout import Lookout
from pgcore.postgres.parameters import Binary
from pgcore.postgres.programs import ProgramRunner, clean_environment, descendants
from pgcore.postgres.replication import SlotState, readable_here
from pgcore.postgres.server import Postgres
from pgcore.postgres.server_log import LIMIT_BYTES, ServerLog

SETTINGS = ServerSettings(name="node-1", scope="demo", listen="127.0.0.1:5433", data_dir="/nowhere/data", bin_dir="/bin",
                          replication=Credentials("repl", "se:cret"))
UPSTREAM = Upstream("10.0.0.1", 5432, "node-2", slot="node_1")
SEGMENT = 16 * 1024 * 1024


@pytest.mark.parametrize(("start", "length", "end"), [
    (0x1000028, 114, 0x10000A0),                       # padded to 8 bytes
    (0x1000028, 8192 - 40, 0x1002000),                 # ends exactly at the page border: the next header is not skipped
    (0x1000028, 8192 - 40 + 1, 0x1002000 + 24 + 8),    # one byte more goes behind a short header
    (0x1001FE8, 114, 0x1002000 + 24 + 120 - 24),       # begins 24 bytes before the border
    (0x1FFFFE8, 114, 0x2000000 + 40 + 120 - 24),       # over the border of a segment: a long header
    (0x1000028, 20000, 0x1004000 + 24 + 20000 - (8192 - 40) - (8192 - 24)),  # over two borders
    (0x2000000, 100, 0x2000000 + 40 + 104),            # a start given as the border means behind the header
])
def test_the_end_of_a_record_counts_page_headers(start: int, length: int, end: int) -> None:
    assert controldata.record_end(Lsn(start), length, SEGMENT) == end


def test_small_segments_have_long_headers_more_often() -> None:
    assert controldata.record_end(Lsn(0xFFFE8), 114, 1024 * 1024) == 0x100000 + 40 + 120 - 24
    assert controldata.record_end(Lsn(0xFFFE8), 114, SEGMENT) == 0x100000 + 24 + 120 - 24


def test_control_data_tolerates_warnings_and_missing_fields() -> None:
    """(EC 97) Another major version's output: unknown values, no exception."""
    control = controldata.parse("WARNING: Calculated CRC checksum does not match\n"
                                "Database system identifier: 7012345678901234567\n"
                                "Database cluster state: from the future\nLatest checkpoint location: 0/3000060\n"
                                "max_prepared_xacts setting: 5\n")
    assert control is not None and control.state == ControlState.UNKNOWN and control.checkpoint == 0x3000060
    assert control.parameters == {"max_prepared_transactions": 5} and not control.rewindable
    assert controldata.parse("pg_controldata: could not open file") is None


@pytest.mark.parametrize("program", ["/nowhere/pg_controldata", "/bin/false", "/bin/echo"], ids=os.path.basename)
def test_a_pg_controldata_that_cannot_be_run_leaves_everything_unknown(tmp_path: Path, program: str) -> None:
    """(EC 97) Absent, failing, or talking nonsense: the look at the node goes on without it."""
    directory = tmp_path / "data"
    (directory / "global").mkdir(parents=True)
    (directory / "global" / "pg_control").write_bytes(b"short")
    (directory / "PG_VERSION").write_text("15\n")
    server = Postgres(replace(SETTINGS, data_dir=str(directory), bin_dir=None, bin_name={"pg_controldata": program}))
    view = server.observe(Deadline.after(1))
    server.close()
    assert (view.data_dir, view.control, view.system_id, view.running) == (DataDir.PRESENT, None, None, False)
    assert server.role_on_disk() is Role.UNINITIALIZED


def test_a_data_directory_is_known_by_pg_control_and_not_listed(tmp_path: Path) -> None:
    """(EC 13) Listing takes minutes on a machine under I/O stress; one look at a file does not."""
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").touch()
    code = ("import sys; from pgcore.postgres import data_dir; seen = []\n"
            "sys.addaudithook(lambda event, args: seen.append(event) if event in ('os.listdir', 'os.scandir') else None)\n"
            "print(data_dir.look(sys.argv[1]), seen)")
    for path, expected in ((tmp_path, "present []"), (tmp_path / "global", "present ['os.listdir']")):
        told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == expected


def test_a_directory_is_empty_with_only_dot_files_and_lost_and_found(tmp_path: Path) -> None:
    """(EC 178)"""
    assert data_dir.look(str(tmp_path / "none")) == DataDir.EMPTY
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".hidden").touch()
    assert data_dir.look(str(tmp_path)) == DataDir.EMPTY
    (tmp_path / "something").touch()
    assert data_dir.look(str(tmp_path)) == DataDir.PRESENT


def test_removing_spares_what_is_not_the_clusters(tmp_path: Path) -> None:
    data, space, wal = tmp_path / "data", tmp_path / "space", tmp_path / "wal"
    for directory in (data / "pg_tblspc", space / "PG_15_1", wal):
        directory.mkdir(parents=True)
    (space / "notes.txt").write_text("mine")
    (wal / "000000010000000000000001").touch()
    (data / "pg_tblspc" / "16384").symlink_to(space)
    (data / "pg_wal").symlink_to(wal)
    (data / "elsewhere").symlink_to(tmp_path / "space")
    data_dir.remove(f"{data}/")
    assert not data.exists() and os.listdir(wal) == [] and os.listdir(space) == ["notes.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own files of two accounts")
def test_removing_as_root_does_not_follow_a_link_into_another_accounts_directory(tmp_path: Path) -> None:
    data, theirs = tmp_path / "data", tmp_path / "theirs"
    data.mkdir()
    theirs.mkdir()
    (theirs / "precious").touch()
    os.chown(data, 65534, 65534)
    (data / "pg_wal").symlink_to(theirs)
    data_dir.remove(str(data))
    assert (theirs / "precious").exists() and not data.exists()


def test_putting_aside_twice_keeps_the_newer_one_and_mends_links(tmp_path: Path) -> None:
    for content in ("first", "second"):
        data, wal = tmp_path / "data", tmp_path / "wal"
        data.mkdir()
        wal.mkdir()
        (data / "mark").write_text(content)
        (data / "pg_wal").symlink_to(wal)
        assert data_dir.rename_failed(f"{data}/") == f"{data}.failed"
    assert (tmp_path / "data.failed" / "mark").read_text() == "second"
    assert os.path.realpath(tmp_path / "data.failed" / "pg_wal") == str(tmp_path / "wal.failed")


@pytest.mark.parametrize(("listen", "expected"), [
    ("127.0.0.1:5433", ("127.0.0.1", 5433)), ("*", ("*", 5432)), ("[::1]:6000", ("::1", 6000)),
    ("10.0.0.1,localhost:5434", ("10.0.0.1,localhost", 5434))])
def test_listen_is_addresses_and_port(listen: str, expected: tuple[str, int]) -> None:
    assert parameters.split_listen(listen) == expected


def test_parameters_speak_the_words_of_their_version() -> None:
    given = {"wal_keep_segments": 8, "WAL_LEVEL": "hot_standby", "hot_standby": True, "primary_conninfo": "x", "port": 1}
    new = parameters.effective(replace_parameters(given), 15)
    assert new["wal_keep_size"] == "128MB" and "wal_keep_segments" not in new
    assert new["wal_level"] == "replica" and new["hot_standby"] == "on" and new["port"] == "5433"
    assert "primary_conninfo" not in new
    assert parameters.effective(replace_parameters({"wal_keep_size": "1GB", "stats_temp_directory": "x"}), 12) == {
        "cluster_name": "demo", "listen_addresses": "127.0.0.1", "port": "5433", "stats_temp_directory": "x",
        "wal_keep_segments": "64"}
    assert parameters.command_line(new)[:3] == ["--listen_addresses=127.0.0.1", "--port=5433", "--cluster_name=demo"]


def replace_parameters(values: dict[str, Any]) -> ServerSettings:
    return ServerSettings(name="n", scope="demo", listen="127.0.0.1:5433", data_dir="/nowhere", parameters=values)


def test_the_servers_complaints_name_the_parameter_and_the_nearest_value() -> None:
    found = parameters.complaints("""2026 LOG:  invalid value for parameter "wal_level": "xx"
2026 HINT:  Available values: minimal, replica, logical.
LOG:  0 8kB is outside the valid range for parameter "shared_buffers" (16 .. 1073741823)
LOG:  9 kB is outside the valid range for parameter "work_mem" (64 kB .. 2147483647 kB)
LOG:  7 is outside the valid range for parameter "seq_page_cost" (0 .. 5.5)
LOG:  parameter "fsync" requires a Boolean value
LOG:  unrecognized configuration parameter "bogus" in file "x" line 4
FATAL:  configuration file "c.conf" contains errors""")
    assert {complaint.name: complaint.replacement for complaint in found} == {
        "wal_level": None, "shared_buffers": "16", "work_mem": "64", "seq_page_cost": "5.5", "fsync": None, "bogus": None}


def test_values_are_quoted_so_that_nothing_breaks_out() -> None:
    assert parameters.quoted("it's \\ a\nline") == "'it''s \\\\ a\\nline'"
    assert [parameters.human(*pair) for pair in (("16384", "8kB"), ("1000", "kB"), ("300", "s"), ("5", None), ("-1", "8kB"))] == [
        "128MB", "1000kB", "5min", "5", "-1"]
    assert parameters.parse_version("postgres (PostgreSQL) 15.6 (Debian 15.6-1)") == 150006
    assert parameters.parse_version("postgres (PostgreSQL) 19devel") == 190000


def test_primary_conninfo_has_the_contracts_order_and_escapes_and_no_password() -> None:
    text = recovery.conninfo(recovery.primary_conninfo(SETTINGS, UPSTREAM, 15, "/srv/me/my pass"))
    assert text == ("dbname=postgres user=repl passfile=/srv/me/my\\ pass host=10.0.0.1 port=5432 sslmode=prefer "
                    "application_name=node-1 gssencmode=prefer channel_binding=prefer")
    assert "sslnegotiation=postgres" in recovery.conninfo(recovery.primary_conninfo(SETTINGS, UPSTREAM, 17, None))
    assert "channel_binding" not in recovery.conninfo(recovery.primary_conninfo(SETTINGS, UPSTREAM, 12, None))


def test_only_several_remote_hosts_with_a_slot_must_accept_writes() -> None:
    """EC 205"""
    def shown(*, host: str, slot: str | None) -> str:
        remote = Upstream(host, 5432, slot=slot, read_write="," in host)
        return recovery.wanted(SETTINGS, remote, 15, None, Role.STANDBY_LEADER)["primary_conninfo"]

    assert "host=a,b" in shown(host="a,b", slot="x") and "target_session_attrs=read-write" in shown(host="a,b", slot="x")
    assert "target_session_attrs" not in shown(host="a", slot="x") + shown(host="a,b", slot=None)


def test_a_cluster_that_only_reads_an_archive_has_no_primary_conninfo() -> None:
    """EC 203"""
    settings = replace(SETTINGS, recovery_conf={"restore_command": "cp /archive/%f %p"}, leader_apply_delay="5min")
    want = recovery.wanted(settings, None, 15, "/p", Role.STANDBY_LEADER)
    assert want["restore_command"] == "cp /archive/%f %p"
    assert not {"primary_conninfo", "primary_slot_name"} & want.keys()


def test_only_the_standby_leader_delays_the_replay() -> None:
    settings = replace(SETTINGS, leader_apply_delay="5min")
    leader = recovery.wanted(settings, UPSTREAM, 15, "/p", Role.STANDBY_LEADER)
    follower = recovery.wanted(settings, UPSTREAM, 15, "/p", Role.REPLICA)
    assert leader["recovery_min_apply_delay"] == "5min" and "recovery_min_apply_delay" not in follower
    current = in_force(leader, recovery_min_apply_delay=("300000", "sighup"))
    config = "/c/postgresql.conf"
    assert recovery.change(leader, current, major=15, config_file=config, receiver=None) == "none"
    assert recovery.change(follower, current, major=15, config_file=config, receiver=None) == "reload"


def in_force(want: dict[str, str], **changes: tuple[str, str]) -> recovery.Current:
    values = {name: (value, "sighup", "/c/postgresql.conf") for name, value in want.items()}
    return recovery.Current(values | {name: (value, context, "/c/postgresql.conf") for name, (value, context) in changes.items()})


def test_recovery_settings_are_compared_by_meaning() -> None:
    want = recovery.wanted(SETTINGS, UPSTREAM, 15, "/p", Role.REPLICA)

    def change(current: recovery.Current, receiver: Any = None) -> str:
        return recovery.change(want, current, major=15, config_file="/c/postgresql.conf", receiver=receiver)

    assert change(in_force(want)) == "none"
    assert change(in_force(want, primary_slot_name=("other", "sighup"))) == "reload"
    assert change(in_force(want, primary_slot_name=("other", "postmaster"))) == "restart"
    assert change(in_force(want, recovery_target_timeline=("current", "postmaster"))) == "restart"
    assert change(in_force(want, restore_command=("cp a b", "sighup"))) == "reload"
    equivalent = "host=10.0.0.1 user=repl application_name=node-1 passfile=/p dbname=other"
    assert change(in_force(want, primary_conninfo=(equivalent, "sighup"))) == "none"
    elsewhere = "host=10.0.0.9 user=repl application_name=node-1 passfile=/p"
    assert change(in_force(want, primary_conninfo=(elsewhere, "sighup"))) == "reload"
    live = recovery.parse_conninfo(equivalent + " port=5432 sslmode=prefer gssencmode=prefer channel_binding=prefer")
    assert change(in_force(want), (live, "node_1")) == "none"
    assert change(in_force(want), (live | {"host": "10.0.0.9"}, "node_1")) == "reload"


def test_a_password_file_escapes_and_names_every_host() -> None:
    assert files.pgpass_text("a, b", 5432, "me", "x:\\y") == "a:5432:*:me:x\\:\\\\y\nb:5432:*:me:x\\:\\\\y\n"
    assert files.pgpass_text("/tmp", 5432, "me", "x").splitlines() == ["/tmp:5432:*:me:x", "localhost:5432:*:me:x"]


def test_the_first_write_keeps_what_was_there_as_the_base_file(tmp_path: Path) -> None:
    settings = ServerSettings(name="n", scope="s", listen="*", data_dir=str(tmp_path), pgpass=str(tmp_path / "pass"))
    paths = files.Paths.of(settings, None)
    Path(paths.main).write_text("work_mem = '1MB' # mine\n")
    assert files.ensure_base(settings, paths, None) == "postgresql.base.conf"
    assert files.settings_in(paths.base) == {"work_mem": "1MB"}
    files.write(paths.main, files.main_text({"a": "b"}, {"restore_command": "c"}, include="postgresql.base.conf", paths=paths),
                mode=0o600, user=None)
    assert files.settings_in(paths.main)["restore_command"] == "c"
    Path(paths.base).unlink()
    files.ensure_base(settings, paths, None)
    assert "include" not in Path(paths.base).read_text()


def test_recovery_settings_leave_the_auto_file_and_others_stay(tmp_path: Path) -> None:
    auto = tmp_path / "postgresql.auto.conf"
    auto.write_text("# ALTER SYSTEM\nwork_mem = '5MB'\nprimary_conninfo = 'host=old'\nrestore_command='x'\n")
    files.clean_auto_conf(str(tmp_path), None)
    assert auto.read_text() == "# ALTER SYSTEM\nwork_mem = '5MB'\n"


def test_a_missing_segment_is_found_in_the_output_of_pg_rewind() -> None:
    name = "00000001000000000000000A"
    assert rewind.missing_segment(f'pg_rewind: error: could not open file "/d/pg_wal/{name}": No such file or directory') == name
    assert rewind.missing_segment("pg_rewind: fatal: target server must be shut down cleanly") is None


def test_ready_segments_are_archived_in_order_and_failures_stay_marked(tmp_path: Path) -> None:
    status = tmp_path / "pg_wal" / "archive_status"
    status.mkdir(parents=True)
    for number in "BA":
        name = f"00000001000000000000000{number}"
        (tmp_path / "pg_wal" / name).write_text(number)
        (status / f"{name}.ready").touch()
    (status / "00000002.history.ready").touch()
    runner = ProgramRunner()
    archive = rewind.Archiving("on", f"test %f != 00000001000000000000000B && cp %p {tmp_path}/%f.%%", "")
    rewind.archive_ready(runner, str(tmp_path), archive)
    assert sorted(os.listdir(status)) == [
        "00000001000000000000000A.done", "00000001000000000000000B.ready", "00000002.history.ready"]
    assert (tmp_path / "00000001000000000000000A.%").read_text() == "A"


def test_history_files_are_read_with_reasons_and_without_comments() -> None:
    assert timeline.parse_history("1\t0/3000060\tno recovery target specified\n# no\n\n2 0/5000000\n") == (
        (1, Lsn(0x3000060), "no recovery target specified"), (2, Lsn(0x5000000), ""))


@pytest.mark.parametrize(("listen", "host"), [
    ("*:1", {"host": "localhost"}), ("10.0.0.1,localhost:1", {"host": "localhost"}), ("10.0.0.1:1", {"host": "10.0.0.1"}),
    ("0.0.0.0:1", {"host": "localhost", "hostaddr": "127.0.0.1"})])
def test_the_local_address_follows_listen(listen: str, host: dict[str, str]) -> None:
    settings = ServerSettings(name="n", scope="s", listen=listen, data_dir="/nowhere")
    assert local.address(settings) == host | {"port": 1}


def test_a_custom_bootstrap_lets_in_the_address_the_agent_connects_from() -> None:
    settings = ServerSettings(name="n", scope="s", listen="10.0.0.1:1", data_dir="/nowhere", superuser=Credentials("ad min"),
                              replication=Credentials("repl"))
    lines = creation.trust_lines(settings)
    assert lines[:2] == ['local replication "repl" trust', 'host replication "repl" 10.0.0.1/32 trust']
    superusers = [line.split()[-2] for line in lines if line.startswith('host all "ad min"')]
    assert superusers == ["10.0.0.1/32", "127.0.0.1/32", "::1/128"]


def test_the_socket_directory_is_used_where_configured() -> None:
    settings = ServerSettings(name="n", scope="s", listen="*:1", data_dir="/nowhere", use_unix_socket=True,
                              parameters={"unix_socket_directories": "relative, /run/pg"})
    assert local.address(settings) == {"host": "/run/pg", "port": 1}
    assert local.address(settings, replication=True) == {"host": "localhost", "port": 1}


def test_elapsed_times_of_ps_are_understood() -> None:
    assert [postmaster.elapsed_seconds(text) for text in ("00:07", "01:02:03", "2-00:00:01")] == [7, 3723, 172801]


def test_a_recycled_pid_is_not_taken_for_the_postmaster(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        (tmp_path / "postmaster.pid").write_text(f"{stranger.pid}\n{tmp_path}\n1000000000\n5432\n\n*\n\nready   \n")
        assert postmaster.find(str(tmp_path)) is None
        assert postmaster.foreign_pid(str(tmp_path)) == stranger.pid
        (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n{int(time.time())}\n")
        assert postmaster.find(str(tmp_path)) is None
        (tmp_path / "postmaster.pid").write_text("-17\n")
        assert postmaster.find(str(tmp_path)) is None
        (tmp_path / "postmaster.pid").write_text(f"-{stranger.pid}\n{tmp_path}\n1000000000\n")  # of a single-user server
        assert postmaster.single_user_pid(str(tmp_path)) is None
        assert postmaster.foreign_pid(str(tmp_path)) == stranger.pid
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_the_end_of_a_process_is_noticed_at_once(with_pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    child = subprocess.Popen(["sleep", "30"])
    handle = postmaster.Postmaster(child.pid)
    assert handle.alive and not handle.wait(0.05) and (handle.fileno() is not None) == with_pidfd
    threading.Timer(0.1, child.kill).start()
    began = time.monotonic()
    assert handle.wait(5) and time.monotonic() - began < 1
    assert not handle.signal(signal.SIGTERM)
    child.wait()


def test_a_program_is_cancelled_with_its_children(tmp_path: Path) -> None:
    cancelled = threading.Event()
    runner = ProgramRunner(cancelled=cancelled)
    threading.Timer(0.3, cancelled.set).start()
    script = f"sleep 77 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(CancelledError):
        runner.run(["/bin/sh", "-c", script])
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5  # a killed process is still listed until it has left the processor
    while pid in descendants(1) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pid not in descendants(1) and pid not in descendants(os.getpid())
    with pytest.raises(CancelledError):
        runner.run(["/bin/true"])


def test_a_programs_output_is_shown_line_by_line_and_kept_for_the_error() -> None:
    seen: list[str] = []
    with pytest.raises(CommandFailedError, match=r"exited with 3: .*last words") as caught:
        ProgramRunner().run([sys.executable, "-c", "import sys; print('10%\\r20%', flush=True); sys.stderr.write('last words'); "
                             "sys.exit(3)"], on_output=seen.append)
    assert seen == ["10%", "20%", "last words"] and caught.value.code == 3
    assert ProgramRunner().run(["/bin/cat"], stdin="hello") == "hello\n"
    with pytest.raises(CommandFailedError, match="could not be started"):
        ProgramRunner().run(["/does/not/exist"])
    with pytest.raises(CommandFailedError, match="did not end"):
        ProgramRunner(limit_s=0.2).run(["sleep", "20"])


def test_a_daemon_left_behind_does_not_hold_up_its_starter(tmp_path: Path) -> None:
    began = time.monotonic()
    ProgramRunner().run(["/bin/sh", "-c", f"sleep 3 & echo $! > {tmp_path}/pid"])
    assert time.monotonic() - began < 2
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_children_do_not_see_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGCORE_X", "PATRONI_X", "KUBERNETES_PORT", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in clean_environment(None, {"A": "b"}, hidden=("KUBERNETES_",)).values()
    scripts = [name for name, value in clean_environment(None).items() if value == "secret"]
    assert scripts == ["KUBERNETES_PORT"], "a script may have to ask the cluster manager it runs in"


def test_the_servers_output_is_handed_on_once_and_cut_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = ServerLog(str(tmp_path / "log"), None)
    descriptor = log.open()
    os.write(descriptor, b"one\n")
    log.hand_on()
    log.hand_on()
    os.write(descriptor, b"two\n")
    assert log.tail(str(tmp_path)) == "one | two"
    os.write(descriptor, b"x" * (LIMIT_BYTES - 4))
    log.hand_on()
    assert os.stat(log.path).st_size == 0
    os.write(descriptor, b"three\n")
    log.hand_on()
    os.close(descriptor)
    assert capfd.readouterr().err.replace("x", "") == "one\ntwo\nthree\n"


def request(options: Any, major: int = 15) -> ReplicaRequest:
    return ReplicaRequest(server=SETTINGS, source=UPSTREAM, connstring="host=h user=u", env={}, options=options,
                          binary=lambda name: f"/b/{name}", task=ProgramRunner(), server_major=major)


@pytest.mark.parametrize(("options", "expected"), [
    (None, ["--checkpoint=fast", "--progress"]),
    (["verbose", {"max-rate": "100M"}, "waldir=/x"],
     ["--checkpoint=fast", "--progress", "--verbose", "--max-rate=100M", "--waldir=/x"]),
    ({"checkpoint": "spread", "label": "'a b'", "x": ""}, ["--progress", "--checkpoint=spread", "--label=a b"]),
    (["format=t", {"pgdata": "/y"}, {"max-rate": 5}, 7, {"compress": "gzip"}], ["--checkpoint=fast", "--progress"]),
    ([{"compress": "server-lz4"}], ["--checkpoint=fast", "--progress", "--compress=server-lz4"]),
])
def test_basebackup_takes_lists_and_maps_and_skips_what_is_forbidden(options: Any, expected: list[str]) -> None:
    assert basebackup.arguments(request(options)) == [
        "/b/pg_basebackup", "--pgdata=/nowhere/data", "-X", "stream", "--dbname=host=h user=u", *expected]


def test_compression_on_the_client_is_skipped_and_before_15_all_of_it() -> None:
    assert "--compress=server" not in " ".join(basebackup.arguments(request([{"compress": "server"}], major=14)))


@pytest.mark.parametrize(("options", "expected"), [
    (None, []), (["data-checksums", {"encoding": "UTF8"}, "locale=C"], ["--data-checksums", "--encoding=UTF8", "--locale=C"]),
    ({"encoding": "UTF8", "x": ""}, ["--encoding=UTF8"])])
def test_initdb_takes_lists_and_maps(options: Any, expected: list[str]) -> None:
    assert initdb.command_options(options) == expected


@pytest.mark.parametrize("options", [
    ["pgdata=/x"], {"pwfile": "x"}, [{"wal-segsize": 64}], [{"a": "b", "c": "d"}], "text", ["--debug"]])
def test_initdb_refuses_forbidden_and_malformed_options(options: Any) -> None:
    with pytest.raises(ServerError):
        initdb.command_options(options)


class Standby:
    """What the monitoring query says of a standby, as far as its timeline is concerned."""

    postmaster_start, minimum_recovery_timeline = "noon", 3

    def __init__(self, receiver: int | None = None, replayed: int = 100) -> None:
        self.receiver = WalReceiver("streaming", timeline=receiver) if receiver else None
        self.replayed = Lsn(replayed)


def test_a_receiver_that_moved_on_and_died_between_two_looks_does_not_leave_its_standby_on_the_old_timeline() -> None:
    """Else such standbys hold each other back from every race: own timeline 4, cluster timeline 5."""
    asked: list[int | None] = []
    answers: list[int | None] = [None, 4, 5]

    def identify() -> int | None:
        asked.append(answers.pop(0))
        return asked[-1]

    lookout: Any = Lookout(lambda argv: "", Binary(lambda argv: ""))
    assert lookout.standby_timeline(Standby(receiver=4), identify) == 4
    assert asked == []
    assert lookout.standby_timeline(Standby(), identify) == 4  # no answer: asked again
    assert lookout.standby_timeline(Standby(), identify) == 4
    assert lookout.standby_timeline(Standby(), identify) == 4  # nothing new was replayed: not asked
    assert lookout.standby_timeline(Standby(replayed=101), identify) == 5
    assert asked == [None, 4, 5]


def test_the_timeline_of_a_standby_does_not_fall_back_behind_its_receiver() -> None:
    lookout: Any = Lookout(lambda argv: "", Binary(lambda argv: ""))
    assert lookout.standby_timeline(Standby(receiver=5), lambda: 4) == 5
    assert lookout.standby_timeline(Standby(), lambda: 4) == 5


def test_a_logical_slot_is_not_copied_to_a_standby_that_lacks_its_wal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy made after the slot begins with a later segment; decoding there would end in "has already been removed"."""
    wal = tmp_path / "pg_wal"
    wal.mkdir()
    for name in ("000000020000000000000003", "000000020000000000000004", "00000002.history"):
        (wal / name).touch()
    states = {"old": SlotState(b"x", "0000000000000002"), "fit": SlotState(b"y", "0000000000000003"), "none": SlotState(b"z", "")}
    assert readable_here(states, str(tmp_path)) == {"fit": states["fit"]}
    assert "slot old is not copied" in caplog.text and "slot fit" not in caplog.text
