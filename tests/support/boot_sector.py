"""A guest of 512 bytes for tests of real hypervisors: no firmware trick, no operating system.

It prints a greeting on the first serial port and echoes what is typed. `q` or the power button
makes it power off; between events it halts, so that it costs next to no CPU.
"""

from __future__ import annotations

GREETING = b"guest is up\r\n"
DISK_BYTES = 1024 * 1024

_ORIGIN = 0x7C00
_COM1 = 0x3F8
_PM_STATUS, _PM_ENABLE, _PM_CONTROL = 0x600, 0x602, 0x604
"""ACPI PM1a registers where SeaBIOS puts them on QEMU's `pc` and `q35`."""


class _Assembler:
    """Bytes with labels; jumps are one byte long."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self.jumps: list[tuple[int, str]] = []

    def raw(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def jump(self, opcode: int, label: str) -> None:
        self.code += bytes([opcode, 0])
        self.jumps.append((len(self.code) - 1, label))

    def call(self, label: str) -> None:
        self.code += b"\xe8\0\0"
        self.code[-2:] = (self.labels[label] - len(self.code)).to_bytes(2, "little", signed=True)

    def port(self, number: int) -> None:
        self.code += b"\xba" + number.to_bytes(2, "little")  # mov dx, number

    def assembled(self) -> bytes:
        for place, label in self.jumps:
            self.code[place : place + 1] = (self.labels[label] - place - 1).to_bytes(
                1, "little", signed=True
            )
        return bytes(self.code)


_JMP, _JZ, _JNZ = 0xEB, 0x74, 0x75


def echo_guest() -> bytes:
    """Return a raw disk of 1 MiB that boots into the guest described above."""
    asm = _Assembler()
    asm.raw("fa fc 31c0 8ed8 8ed0 bc007c")  # cli; cld; ds = ss = 0; sp = 7C00
    asm.jump(_JMP, "start")
    asm.label("putc")  # prints al
    asm.raw("88c4")  # mov ah, al
    asm.label("busy")
    asm.port(_COM1 + 5)
    asm.raw("ec a820")  # in al, dx; test al, 20h (transmitter empty)
    asm.jump(_JZ, "busy")
    asm.raw("88e0")  # mov al, ah
    asm.port(_COM1)
    asm.raw("ee c3")  # out dx, al; ret
    asm.label("start")
    asm.port(_PM_ENABLE)
    asm.raw("b80001 ef")  # mov ax, 100h (power button); out dx, ax
    asm.raw("be0000")  # mov si, greeting
    patch = len(asm.code) - 2
    asm.label("next")
    asm.raw("ac 84c0")  # lodsb; test al, al
    asm.jump(_JZ, "poll")
    asm.call("putc")
    asm.jump(_JMP, "next")
    asm.label("poll")
    asm.port(_PM_STATUS)
    asm.raw("ed f6c401")  # in ax, dx; test ah, 1
    asm.jump(_JNZ, "off")
    asm.port(_COM1 + 5)
    asm.raw("ec a801")  # in al, dx; test al, 1 (byte received)
    asm.jump(_JNZ, "typed")
    asm.raw("fb f4 fa")  # sti; hlt (until the timer's next tick); cli
    asm.jump(_JMP, "poll")
    asm.label("typed")
    asm.port(_COM1)
    asm.raw("ec 3c71")  # in al, dx; cmp al, 'q'
    asm.jump(_JZ, "off")
    asm.call("putc")
    asm.jump(_JMP, "poll")
    asm.label("off")
    asm.port(_PM_CONTROL)
    asm.raw("b80020 ef fa f4")  # mov ax, 2000h (sleep, soft off); out dx, ax; cli; hlt
    code = bytearray(asm.assembled())
    code[patch : patch + 2] = (_ORIGIN + len(code)).to_bytes(2, "little")
    code += GREETING + b"\0"
    return bytes(code.ljust(510, b"\0") + b"\x55\xaa").ljust(DISK_BYTES, b"\0")


def reading_guest(sector: int) -> bytes:
    """Return a raw disk of 1 MiB whose guest reads one sector of it again and again."""
    asm = _Assembler()
    asm.raw("fa 31c0 8ed8 8ed0 bc007c fb")  # cli; ds = ss = 0; sp = 7C00; sti
    asm.label("read")
    asm.raw("be0000")  # mov si, packet
    patch = len(asm.code) - 2
    asm.raw("b442 b280 cd13 f4")  # ah = 42h (extended read); dl = 80h; int 13h; hlt
    asm.jump(_JMP, "read")
    code = bytearray(asm.assembled())
    code[patch : patch + 2] = (_ORIGIN + len(code)).to_bytes(2, "little")
    # The packet: its size, one sector, to 0000:7E00, from there.
    code += bytes.fromhex("10000100007e0000") + sector.to_bytes(8, "little")
    disk = bytearray(code.ljust(510, b"\0") + b"\x55\xaa").ljust(DISK_BYTES, b"\xa5")
    return bytes(disk)
