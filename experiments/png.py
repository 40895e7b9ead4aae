"""Reads and writes PNG files of 8 bits with nothing but the standard library."""
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write(path, rows):
    """Writes gray values, rows of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    with open(path, "wb") as file:
        file.write(SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def read(path):
    """The first channel of a gray or RGB picture, rows of pixels."""
    with open(path, "rb") as file:
        content = file.read()
    assert content.startswith(SIGNATURE), f"{path}: not a PNG file"
    place, data = len(SIGNATURE), b""
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack(">IIBB", body[:10])
            assert bits == 8 and colour in (0, 2), f"{path}: only gray and RGB of 8 bits are read"
        elif kind == b"IDAT":
            data += body
        place += 12 + length
    pixel = {0: 1, 2: 3}[colour]
    stride, lines = width * pixel, zlib.decompress(data)
    before, rows = bytearray(stride), []
    for y in range(height):
        method, line = lines[y * (stride + 1)], bytearray(lines[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left = line[x - pixel] if x >= pixel else 0
            above = before[x]
            corner = before[x - pixel] if x >= pixel else 0
            line[x] = (line[x] + predicted(method, left, above, corner)) & 255
        rows.append(list(line[::pixel]))
        before = line
    return rows


def predicted(method, left, above, corner):
    """What the five filters of the format expect of a byte."""
    if method == 4:
        estimate = left + above - corner
        return min((left, above, corner), key=lambda value: abs(estimate - value))
    return (0, left, above, (left + above) // 2)[method]
