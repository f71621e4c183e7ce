"""The command line: one function for each command, and the table that finds them."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from recipes import debian

from . import agent, capture, crash, emulator, errors, instance as instances, lifecycle, network, process, transfer
from .errors import LabError
from .instance import Instance

EPILOG = """exit codes: that of the command for exec, client, wait; else 0 ok, 1 error, 2 usage, 3 not found,
4 conflict, 124 time limit reached (what ran was killed), 255 the host is not running or went away."""


def main(argv: list[str]) -> int:
    """Runs one command; errors become one line with the remedy, and an exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or errors.OK
    except (LabError, debian.RecipeError) as error:
        hint = getattr(error, "hint", "")
        print(f"lab: {error}" + (f"\n  try: {hint}" if hint else ""), file=sys.stderr)
        return getattr(error, "code", errors.ERROR)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.ERROR


def run_up(args) -> None:
    lab = Instance(args.name, args.hosts.split(","), args.mem, args.smp, args.data_mib, args.nice, args.nvdimm_mib, args.volatile_disk, args.counted)
    begun = time.monotonic()
    lifecycle.up(lab, args.seed, args.tie_to_pid)
    print(f"lab {lab.name}: hosts {', '.join(lab.hosts)} up in {time.monotonic() - begun:.1f} s; shared directory {lab.share}")


def run_exec(args) -> int:
    lab = instances.load(args.name)
    host = lab.host(args.host)
    argv = ["sh", "-c", args.command[0]] if len(args.command) == 1 else args.command
    if args.detach:
        argv = ["job", "start", args.detach, *argv]
    stdin = sys.stdin.buffer if args.stdin else None
    return agent.execute(lab, host, argv, timeout=args.timeout, stdin=stdin, on_stdout=_writer(1), on_stderr=_writer(2))


def run_job(args) -> int:
    lab = instances.load(args.name)
    argv = ["job", args.verb, *args.words]
    return agent.execute(lab, lab.host(args.host), argv, timeout=args.timeout, on_stdout=_writer(1), on_stderr=_writer(2))


def run_put(args) -> None:
    lab = instances.load(args.name)
    hosts = lab.hosts if args.host == "all" else [args.host]
    for name in hosts:
        transfer.put(lab, lab.host(name), args.files, args.to)


def run_get(args) -> None:
    lab = instances.load(args.name)
    transfer.get(lab, lab.host(args.host), args.files, args.to)


def run_client(args) -> int:
    lab = instances.load(args.name)
    try:
        return subprocess.run(network.inside(lab, args.command), timeout=args.timeout, check=False).returncode
    except subprocess.TimeoutExpired:
        raise errors.TimedOut(f"'{' '.join(args.command)}' ran longer than {args.timeout:g} s and was killed") from None


def run_workload(args) -> int:
    command = [sys.executable, "-m", "outlast_lab.client", *args.command]
    environment = {**os.environ, "PYTHONPATH": str(lifecycle.LAB.parent)}
    return subprocess.run(network.inside(instances.load(args.name), command), env=environment, check=False).returncode


def run_plug(args) -> None:
    emulator.pull_plug(instances.load(args.name).host(args.host))


def run_crash(args) -> None:
    lab = instances.load(args.name)
    crash.kernel(lab, lab.host(args.host))


def run_power(args) -> None:
    lab = instances.load(args.name)
    lifecycle.power_on_all(lab, [lab.host(args.host)])


def run_freeze(args) -> None:
    emulator.freeze(instances.load(args.name).host(args.host))


def run_thaw(args) -> None:
    emulator.thaw(instances.load(args.name).host(args.host))


def run_cut(args) -> None:
    lab = instances.load(args.name)
    network.set_link(lab, lab.host(args.host), args.link, up=False)


def run_join(args) -> None:
    lab = instances.load(args.name)
    network.set_link(lab, lab.host(args.host), args.link, up=True)


def run_capture(args) -> None:
    lab = instances.load(args.name)
    path = args.out or lab.directory / f"{args.link}.pcap"
    if args.verb == "start":
        capture.start(lab, args.link, path.resolve())
        print(path.resolve())
    else:
        print(capture.stop(lab).strip())


def run_log(args) -> None:
    log = instances.load(args.name).host(args.host).serial_log
    with open(log.with_suffix(".previous") if args.previous else log, "rb") as source:
        shutil.copyfileobj(source, sys.stdout.buffer)


def run_status(args) -> None:
    chosen = [args.name] if args.name else instances.names()
    rows = [row for name in chosen for row in _status(instances.load(name))]
    if args.output == "json":
        print(json.dumps(rows, indent=2))
        return
    print(f"{'lab':10} {'host':4} {'state':8} {'pid':>8} {'RAM MiB':>8}  lan   repl  address     shared here as")
    for row in rows:
        links = f"{'up' if row['lan'] else 'cut':5} {'up' if row['repl'] else 'cut':5}"
        print(f"{row['lab']:10} {row['host']:4} {row['state']:8} {row['pid'] or '-':>8} {row['resident_bytes'] >> 20:>8}  {links} {row['address']:11} {row['share']}")


def run_down(args) -> None:
    for name in instances.names() if args.all else [args.name]:
        lifecycle.down(name)


def run_reap(args) -> None:
    lifecycle.reap(args.name, args.pid, args.started)


def _status(lab: Instance) -> list[dict]:
    return [
        {
            "lab": lab.name, "host": host.name, "state": process.state(host.pid_record),
            "pid": process.pid_of(host.pid_record), "resident_bytes": process.resident_bytes(host.pid_record),
            "lan": network.is_up(lab, host, "lan"), "repl": network.is_up(lab, host, "repl"),
            "address": host.lan_address, "share": str(host.share), "namespace": lab.namespace,
        }
        for host in lab.all_hosts()
    ]  # fmt: skip


def _writer(fd: int):
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    return write


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Two emulated hosts with real KVM inside, and a client.", epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    default = os.environ.get("OUTLAST_LAB", instances.DEFAULT_NAME)

    def command(name, run, text, *, host=False):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--name", default=default, help="instance (default: $OUTLAST_LAB, else main)")
        if host:
            sub.add_argument("host", metavar="HOST")
        return sub

    _add_life(command)
    _add_work(command)
    _add_faults(command)
    status = command("status", run_status, "what runs")
    status.set_defaults(name=None)
    status.add_argument("--output", choices=["table", "json"], default="table")
    reap = command("reap", run_reap, "internal: end the lab when a process is gone")
    reap.add_argument("pid", type=int)
    reap.add_argument("started", type=int)
    return parser


def _add_life(command) -> None:
    up = command("up", run_up, "make a lab and boot its hosts")
    up.add_argument("--hosts", default="A,B", help="names, capital letters (default A,B)")
    up.add_argument("--mem", type=int, default=1536, metavar="MIB", help="RAM of a host (default 1536)")
    up.add_argument("--smp", type=int, default=1, metavar="N", help="processors of a host (default 1)")
    up.add_argument("--data-mib", type=int, default=8192, metavar="MIB", help="size of /data, sparse (default 8192)")
    up.add_argument("--nvdimm-mib", type=int, default=0, metavar="MIB", help="a memory module (NVDIMM) for each host, sparse, mounted with DAX at /pmem (default none)")
    up.add_argument("--volatile-disk", action="store_true", help="/data is on a disk with a write cache, which `plug` empties at random")
    up.add_argument("--counted", action="store_true", help="a nanosecond for every instruction: what a host does costs nearly the same in every run")
    up.add_argument("--seed", type=Path, action="append", default=[], metavar="FILE", help="put FILE on every /data (repeatable)")
    up.add_argument("--nice", type=int, default=int(os.environ.get("OUTLAST_LAB_NICE", "0")), help="priority of the emulators")
    up.add_argument("--tie-to-pid", type=int, metavar="PID", help="end the lab when process PID is gone")
    down = command("down", run_down, "end a lab; leaves nothing behind")
    down.add_argument("--all", action="store_true", help="every instance of this machine")


def _add_work(command) -> None:
    execute = command("exec", run_exec, "run a command in a host; one word goes through a shell", host=True)
    execute.add_argument("--timeout", type=float, metavar="SECONDS", help="kill it after this time, exit 124")
    execute.add_argument("--detach", metavar="JOB", help="leave it running as JOB; log, pid and code in /lab/host/jobs")
    execute.add_argument("--stdin", "-i", action="store_true", help="give it this standard input")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    job = command("job", run_job, "background jobs of a host: list, wait JOB, kill JOB [SIGNAL]", host=True)
    job.add_argument("--timeout", type=float, metavar="SECONDS")
    job.add_argument("verb", choices=["list", "wait", "kill"])
    job.add_argument("words", nargs="*")
    put = command("put", run_put, "copy files into a host (or `all`); modes are kept", host=True)
    put.add_argument("files", nargs="+", type=Path, metavar="FILE")
    put.add_argument("--to", default="/usr/local/bin", metavar="DIR", help="default /usr/local/bin, which is on the PATH")
    get = command("get", run_get, "copy files out of a host", host=True)
    get.add_argument("files", nargs="+", metavar="FILE")
    get.add_argument("--to", type=Path, default=Path("."), metavar="DIR", help="default: here")
    client = command("client", run_client, "run a command in the client's network namespace")
    client.add_argument("--timeout", type=float, metavar="SECONDS")
    client.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    workload = command("workload", run_workload, "run a client workload (stream, download, redis, journal): prints JSON")
    workload.add_argument("command", nargs=argparse.REMAINDER, metavar="WORDS")
    log = command("log", run_log, "the serial log of a host", host=True)
    log.add_argument("--previous", action="store_true", help="of the boot before")


def _add_faults(command) -> None:
    command("plug", run_plug, "cut the power of a host: kill -9 of the emulator", host=True)
    command("crash", run_crash, "crash the kernel of a host (SysRq c)", host=True)
    command("power", run_power, "boot a host again, with the same disk", host=True)
    command("freeze", run_freeze, "stop a host where it is (SIGSTOP)", host=True)
    command("thaw", run_thaw, "let a frozen host go on", host=True)
    for name, run, text in (("cut", run_cut, "cut a host off its network"), ("join", run_join, "end a cut")):
        sub = command(name, run, text, host=True)
        sub.add_argument("--link", choices=["repl", "lan", "all"], default="all", help="default all")
    record = command("capture", run_capture, "record all frames of a bridge to a pcap file")
    record.add_argument("verb", choices=["start", "stop"])
    record.add_argument("--link", choices=["lan", "repl"], default="lan")
    record.add_argument("--out", type=Path, metavar="FILE")
