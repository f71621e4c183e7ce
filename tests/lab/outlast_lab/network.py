"""The lab's network: one namespace with two bridges, and a tap for each host on each.

`lan` carries the client's and the guest's traffic (client 10.77.0.1, host A 10.77.0.2, host
B 10.77.0.3, guest 10.77.0.10), `repl` the replication (A 10.78.0.1, B 10.78.0.2). The client
is the namespace's own TCP stack. A cut takes the host's tap down: frames vanish both ways and
neither side sees a carrier change, as behind a switch that went away.
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path

from .errors import LabError, NotFound
from .instance import Host, Instance

LINKS = ("lan", "repl")
CLONE_NEWNET = 0x40000000
PATH_RULES = 10
_libc = ctypes.CDLL(None, use_errno=True)


def make(instance: Instance) -> None:
    """Creates the namespace, the bridges and the taps."""
    _ip("netns", "add", instance.namespace)
    lines = ["link set lo up"]
    for link in LINKS:
        lines += [f"link add {link} type bridge forward_delay 0 mcast_snooping 0", f"link set {link} up"]
    lines.append("addr add 10.77.0.1/24 dev lan")
    for host in instance.all_hosts():
        for link in LINKS:
            tap = tap_name(host, link)
            lines += [f"tuntap add {tap} mode tap", f"link set {tap} master {link}", f"link set {tap} up"]
    _ip("-n", instance.namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def make_station(instance: Instance, name: str, index: int, address: str) -> None:
    """Creates the namespace of a machine beside the hosts, with one card on `lan` (station.py)."""
    inner = station_namespace(instance.namespace, name)
    _ip("netns", "add", inner)
    # The same each time: hosts know it from before.
    mac = f"02:00:00:77:02:{index:02x}"
    _ip("-n", instance.namespace, "link", "add", name, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", inner)
    _ip("-n", instance.namespace, "-batch", "-", stdin=f"link set {name} master lan\nlink set {name} up\n")
    # Its own addresses are looked up after the rules of `set_path`, which the kernel's order does not leave room for.
    rules = "rule add pref 100 from all lookup local\nrule del pref 0\n"
    _ip("-n", inner, "-batch", "-", stdin=f"link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n{rules}")


def remove_station(namespace: str, name: str) -> None:
    """Deletes what `make_station` made in a lab's namespace, as far as it is there."""
    if Path("/run/netns", namespace).exists():
        # By itself it goes some time after its other end.
        subprocess.run(["ip", "-n", namespace, "link", "del", name], capture_output=True, check=False)
    remove(station_namespace(namespace, name))


def station_namespace(namespace: str, name: str) -> str:
    """The dot is in no instance's name."""
    return f"{namespace}.{name}"


def set_path(instance: Instance, station: str, address: str, up: bool) -> None:
    """Cuts or joins a station and one address: what comes from there, and what goes there, vanishes."""
    verb = "del" if up else "add"
    lines = [f"rule {verb} pref {PATH_RULES} {way} {address} blackhole" for way in ("from", "to")]
    _ip("-n", station_namespace(instance.namespace, station), "-batch", "-", stdin="\n".join(lines) + "\n")


def remove(name: str) -> None:
    """Deletes the namespace `name` with all that is in it, if it is there."""
    if Path("/run/netns", name).exists():
        _ip("netns", "del", name)


def tap_name(host: Host, link: str) -> str:
    """Name inside the namespace."""
    return f"{link}-{host.name}"


def set_link(instance: Instance, host: Host, link: str, up: bool) -> None:
    """Cuts or joins one host's place on `lan`, `repl` or both (`all`)."""
    for one in LINKS if link == "all" else (link,):
        _ip("-n", instance.namespace, "link", "set", tap_name(host, one), "up" if up else "down")


def is_up(instance: Instance, host: Host, link: str) -> bool:
    text = _ip("-n", instance.namespace, "-o", "link", "show", tap_name(host, link))
    return ",UP" in text.split(">")[0]


def inside(instance: Instance, command: list[str]) -> list[str]:
    """The command line that runs `command` in the client's namespace."""
    return ["ip", "netns", "exec", instance.namespace, *command]


@contextlib.contextmanager
def entered(instance: Instance):
    """This thread is in the namespace while the context lasts; sockets made there stay there."""
    try:
        there = os.open(f"/run/netns/{instance.namespace}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"lab {instance.name} has no network", f"lab down --name {instance.name}, then lab up") from None
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(there)
        yield
    finally:
        _setns(home)
        os.close(there)
        os.close(home)


def tcp_socket(instance: Instance) -> socket.socket:
    """A TCP socket of the client's stack, usable from outside of the namespace."""
    with entered(instance):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        why = ctypes.get_errno()
        raise LabError(f"cannot enter the network namespace: {os.strerror(why)}", "run the lab as root")


def _ip(*words: str, stdin: str = "") -> str:
    done = subprocess.run(["ip", *words], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}", "the lab needs root (CAP_NET_ADMIN)")
    return done.stdout
