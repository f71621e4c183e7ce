"""Takes the ELF kernel out of a bzImage, for loaders that want ELF with the PVH entry.

Debian's cloud kernel is packed with LZ4 in the legacy frame format (undone by the `lz4`
tool), its full kernel with XZ; after either come four bytes, the length of the whole.
"""

import lzma
import struct
import subprocess
from pathlib import Path

LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
XZ_MAGIC = b"\xfd7zXZ\x00"
SETUP_HEADER_MAGIC = b"HdrS"


def extract(bzimage: Path, out: Path) -> None:
    """Writes the ELF inside `bzimage` to `out`."""
    payload = _payload(bzimage.read_bytes(), bzimage)
    size = struct.unpack("<I", payload[-4:])[0]
    elf = _unpack(payload[:-4], bzimage)[:size]
    if len(elf) != size or not elf.startswith(b"\x7fELF"):
        raise ValueError(f"{bzimage}: {len(elf)} of {size} bytes came out")
    out.write_bytes(elf)


def _unpack(packed: bytes, name: Path) -> bytes:
    if packed.startswith(XZ_MAGIC):
        return lzma.decompress(packed)
    if packed.startswith(LZ4_LEGACY_MAGIC):
        return subprocess.run(["lz4", "-d", "-c"], input=packed, capture_output=True, check=False).stdout
    raise ValueError(f"{name}: the payload is neither LZ4 nor XZ (begins with {packed[:4].hex()})")


def _payload(image: bytes, name: Path) -> bytes:
    """The compressed kernel, found through the boot protocol's setup header."""
    if image[0x202:0x206] != SETUP_HEADER_MAGIC:
        raise ValueError(f"{name}: not a bzImage (no setup header)")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start : start + length]
