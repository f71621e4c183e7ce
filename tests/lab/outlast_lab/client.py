"""Runs flows against the guest and prints one JSON report: `lab workload stream download …`.

The exit code is 0 if every flow ended well: each answer right, no connection lost, nothing
stalled. It runs for --seconds, or until SIGTERM or SIGINT, which end it in good order.
"""

import argparse
import json
import sys
import threading
from pathlib import Path

from . import journal_check
from .flows import FLOWS, Options
from .meters import Meter, Report, Stop, write_progress

PROGRESS_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Runs the named flows at once, or checks a journal image."""
    args = _parser().parse_args(argv)
    if args.flows == ["journal-check"]:
        result = journal_check.check(args.image, args.acked_file)
        print(json.dumps(result, indent=2))
        return 0 if result["ok"] else 1
    unknown = [flow for flow in args.flows if flow not in FLOWS]
    if unknown:
        print(f"workload: no flow {unknown[0]}; there are {', '.join(FLOWS)}, journal-check", file=sys.stderr)
        return 2
    reports = _run(args)
    result = {"ok": all(report.ok for report in reports), "flows": [report.as_dict() for report in reports]}
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    return 0 if result["ok"] else 1


def _run(args) -> list[Report]:
    options = Options(
        address=args.address, connect_seconds=args.connect_seconds, stall_seconds=args.stall_seconds,
        interval_seconds=args.interval_ms / 1000, payload_bytes=args.payload, rate_bytes=args.rate,
        seed=args.seed, acked_file=args.acked_file,
    )  # fmt: skip
    stop = Stop(args.seconds)
    meters = [Meter(Report(flow, args.address)) for flow in args.flows]
    threads = [threading.Thread(target=_guarded, args=(FLOWS[meter.report.flow], options, meter, stop)) for meter in meters]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if args.progress:
            write_progress(args.progress, meters)
        for thread in threads:
            thread.join(PROGRESS_SECONDS / len(threads))
    return [meter.report for meter in meters]


def _guarded(flow, options: Options, meter: Meter, stop: Stop) -> None:
    """A flow that fails ends all: the others' figures would mean nothing."""
    try:
        flow(options, meter, stop)
    except TimeoutError:
        meter.fail(f"no answer for {options.stall_seconds:g} s")
    except OSError as error:
        meter.fail(f"connection lost: {error}")
    except ValueError as error:
        meter.fail(f"answer not understood: {error}")
    finally:
        meter.finish()
        if meter.report.failures:
            stop.call()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab workload", description=__doc__.split("\n")[0])
    parser.add_argument("flows", nargs="+", metavar="FLOW", help=f"{', '.join(FLOWS)}; or journal-check")
    parser.add_argument("--seconds", type=float, help="how long (default: until SIGTERM or SIGINT)")
    parser.add_argument("--address", default=Options.address, help="of the guest")
    parser.add_argument("--connect-seconds", type=float, default=Options.connect_seconds, help="keep trying to connect for so long")
    parser.add_argument("--stall-seconds", type=float, default=Options.stall_seconds, help="no answer for so long is a failure")
    parser.add_argument("--interval-ms", type=float, default=0, help="pause between requests")
    parser.add_argument("--payload", type=int, default=Options.payload_bytes, metavar="BYTES")
    parser.add_argument("--rate", type=int, default=Options.rate_bytes, metavar="BYTES/S", help="of the download, 0 is unlimited")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--acked-file", type=Path, help="journal: write the acknowledged lines here; journal-check: read them")
    parser.add_argument("--image", type=Path, help="journal-check: the disk image to look into (it is not changed)")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="keep a small JSON file up to date while running")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report here too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
