"""The emulator of one host: its command line, and power on, power cut, freeze.

QEMU runs without acceleration and gives the host an AMD processor with SVM, so real KVM runs
inside. Devices: the data disk, one network card on each bridge, one for the agent (QEMU's own
user network; nothing but the forwarded port reaches it), three 9p directories.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from recipes import cache

from . import hostimage, network, process, volatile
from .errors import Conflict, HostGone, LabError
from .instance import Host, Instance

# Nothing that a lab host needs is turned off, only what takes an emulated processor long; and a check of the timer that
# panics where this machine gives the emulator no time for a tenth of a second.
KERNEL_WORDS = "console=ttyS0 panic=-1 quiet mitigations=off ipv6.disable=1 apparmor=0 cryptomgr.notests nokaslr no_timer_check"
# Without extended states: the emulation does not intercept XSETBV, so a guest would turn them on for its host, and not find them on
# for itself. Linux warns of that (6.1) or panics (6.18).
CPU = "EPYC,-xsave,-avx,-avx2,-fma,-f16c"
BOOT_SECONDS_MAX = 90.0
READY = b"labagent: ready"


def power_on(instance: Instance, host: Host) -> None:
    """Starts the host; `wait_ready` tells when it can be used."""
    if process.pid_of(host.pid_record):
        raise Conflict(f"host {host.name} of lab {instance.name} runs already")
    image = hostimage.get()
    host.serial_log.rename(host.serial_log.with_suffix(".previous")) if host.serial_log.exists() else None
    with open(host.emulator_log, "wb") as log:
        child = subprocess.Popen(
            network.inside(instance, command_line(instance, host, image)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=host.directory,
            preexec_fn=lambda: os.nice(instance.nice),
        )  # fmt: skip
    process.remember(host.pid_record, child.pid)


def command_line(instance: Instance, host: Host, image: hostimage.HostImage) -> list[str]:
    """QEMU's arguments, one group per purpose."""
    words = f"{KERNEL_WORDS} {_time_stamp_rate(instance)} lab.host={host.name} lab.index={host.index}"
    words += f" lab.machine={instance.machine_id(host)} lab.nvdimm={instance.nvdimm_mib}"
    return [
        "qemu-system-x86_64", "-name", f"outlast-lab-{instance.name}-{host.name}",
        *_memory(instance, host), *_pace(instance), "-cpu", CPU, "-smp", str(instance.smp),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", f"file:{host.serial_log}",
        "-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", words,
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-drive", f"if=none,id=data,{_disk(instance, host)},format=raw,cache=writeback",
        "-device", "virtio-blk-pci,drive=data",
        *_card("lan", "77", host), *_card("repl", "78", host), *_agent_card(host),
        *_directory("share", instance.share), *_directory("host", host.share),
        *_directory("cache", cache.root(), ",readonly=on"),
    ]  # fmt: skip


def _pace(instance: Instance) -> list[str]:
    """As fast as it goes; or so that every instruction takes a nanosecond, whatever it takes the emulator."""
    if instance.counted:
        return ["-accel", "tcg,thread=single", "-icount", "shift=0", "-rtc", "clock=vm"]
    return ["-accel", "tcg,thread=multi"]


def _time_stamp_rate(instance: Instance) -> str:
    """The rate of the time stamp counter, for the host's kernel.

    The emulator hands through this machine's counter. A kernel that boots under load measures its rate against an
    emulated timer that comes late, and was seen to be wrong by a factor of seven: two hosts then differ so much that
    KVM refuses to run the one's guest on the other.
    """
    if instance.counted:
        return "tsc_early_khz=1000000"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return f"tsc_early_khz={round(float(value) * 1000)}"
    return ""


def wait_ready(host: Host, deadline: float) -> None:
    """Returns when the agent listens; the serial log says so."""
    while READY not in _read(host.serial_log):
        if process.pid_of(host.pid_record) is None:
            raise HostGone(f"host {host.name} went down while booting: {_tail(host)}", f"see {host.serial_log}")
        if time.monotonic() > deadline:
            raise LabError(f"host {host.name} did not boot in time: {_tail(host)}", f"see {host.serial_log}")
        time.sleep(0.02)


def pull_plug(host: Host) -> None:
    """Ends the emulator at once: no FIN, no sync, nothing leaves any more."""
    if not process.end(host.pid_record, signal.SIGKILL):
        raise HostGone(f"host {host.name} is not running", f"lab power {host.name}")


def pull_plugs(hosts: list[Host]) -> None:
    """The same of several hosts at once: none is waited for before all were told."""
    for host in hosts:
        if not process.send(host.pid_record, signal.SIGKILL):
            raise HostGone(f"host {host.name} is not running", f"lab power {host.name}")
    for host in hosts:
        process.end(host.pid_record)


def freeze(host: Host) -> None:
    """Stops the emulator where it is: a host that hangs."""
    _signal(host, signal.SIGSTOP)


def thaw(host: Host) -> None:
    """Lets a frozen emulator go on."""
    _signal(host, signal.SIGCONT)


def _signal(host: Host, number: int) -> None:
    if not process.send(host.pid_record, number):
        raise HostGone(f"host {host.name} is not running", f"lab power {host.name}")


def _memory(instance: Instance, host: Host) -> list[str]:
    """RAM, and the memory module: a file of this machine, which has what was stored as soon as it was stored."""
    mib, nvdimm_mib = instance.mem_mib, instance.nvdimm_mib
    if not nvdimm_mib:
        return ["-machine", "q35", "-m", str(mib)]
    file = f"memory-backend-file,id=nv0,share=on,mem-path={host.nvdimm},size={nvdimm_mib}M,align=2M"
    slots = f"{mib},slots=2,maxmem={mib + nvdimm_mib + 1024}M"
    return ["-machine", "q35,nvdimm=on", "-m", slots, "-object", file, "-device", "nvdimm,memdev=nv0"]


def _disk(instance: Instance, host: Host) -> str:
    """A file, whose write cache is this machine's memory and no power cut takes away; or a disk that loses its own."""
    return volatile.start(host) if instance.volatile_disk else f"file={host.disk},discard=unmap"


def _card(link: str, subnet: str, host: Host) -> list[str]:
    mac = f"52:54:00:{subnet}:01:{host.index:02x}"
    netdev = f"tap,id={link},ifname={network.tap_name(host, link)},script=no,downscript=no"
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev={link},mac={mac},romfile="]


def _agent_card(host: Host) -> list[str]:
    forward = f"hostfwd=tcp:127.0.0.1:{host.agent_port}-10.79.0.15:7000"
    netdev = f"user,id=mgmt,net=10.79.0.0/24,restrict=on,{forward}"
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev=mgmt,mac=52:54:00:79:01:{host.index:02x},romfile="]


def _directory(tag: str, path: Path, more: str = "") -> list[str]:
    return ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _tail(host: Host) -> str:
    text = _read(host.emulator_log) + _read(host.serial_log)[-400:]
    return text.decode(errors="replace").strip() or "nothing was printed"
