"""Reads like anybody would, with pymodbus or libmodbus: clients.py CLIENT PORT READS TIMEOUT_S

Prints how many reads were right, wrong and failed. A register's value tells its address.
"""

import ctypes
import random
import sys


def right(start, count):
    return [(a * 257 + 11) & 0xFFFF for a in range(start, start + count)]


def pymodbus(port, timeout):
    from pymodbus.client import ModbusSerialClient
    from pymodbus.exceptions import ModbusException

    client = ModbusSerialClient(port, baudrate=19200, timeout=timeout)
    client.connect()

    def read(start, count):
        try:
            answer = client.read_holding_registers(start, count=count, device_id=17)
        except ModbusException:
            client.connect()
            return None
        return None if answer.isError() else answer.registers

    return read


def libmodbus(port, timeout):
    lib = ctypes.CDLL("libmodbus.so.5")
    lib.modbus_new_rtu.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.modbus_new_rtu(port.encode(), 19200, ctypes.c_char(b"N"), 8, 1))
    lib.modbus_set_slave(context, 17)
    lib.modbus_set_response_timeout(context, 0, int(timeout * 1e6))
    assert lib.modbus_connect(context) == 0

    def read(start, count):
        registers = (ctypes.c_uint16 * count)()
        got = lib.modbus_read_registers(context, start, count, registers)
        return list(registers) if got == count else None

    return read


client, port, reads, timeout = sys.argv[1:]
read = {"pymodbus": pymodbus, "libmodbus": libmodbus}[client](port, float(timeout))
tally = {"right": 0, "wrong": 0, "failed": 0}
for _ in range(int(reads)):
    start, count = random.randrange(100), random.randint(1, 8)
    values = read(start, count)
    if values is None:
        tally["failed"] += 1
    else:
        tally["right" if values == right(start, count) else "wrong"] += 1
print(*tally.values())
