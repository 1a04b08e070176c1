"""pymodbus as the units that a file tells of, on each of the ports named.

The file is JSON: {"UNIT": {"FUNCTION": {"START": [WORD, …]}}}, with function 3 or 4. A
unit has these addresses and no others. It is read again at each request, so that what a
unit says can be changed. A port is a terminal or tcp:PORT on loopback; usage is
`units.py FILE PORT…`. Prints a line once it listens. Ends with its standard input.
"""

import asyncio
import json
import sys

from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice


def units():
    with open(sys.argv[1]) as file:
        return json.load(file)


def device(unit, tables):
    async def follow(function, start, address, count, registers, values):
        if values is not None:
            return
        for at, words in units()[unit].get(str(function), {}).items():
            for n, word in enumerate(words):
                if 0 <= int(at) + n - start < len(registers):
                    registers[int(at) + n - start] = word

    def block(function):
        ranges = tables.get(function, {}).items()
        words = [SimData(int(at), values=words, datatype=DataType.REGISTERS) for at, words in ranges]
        return words or [SimData(65535, values=[0], datatype=DataType.REGISTERS)]

    bits = [SimData(0, values=[False], datatype=DataType.BITS)]
    return SimDevice(int(unit), simdata=(bits, bits, block("3"), block("4")), action=follow)


def only_ours(is_sent, packet):
    """A unit that is not there says nothing: pymodbus would answer for it."""
    is_ours = packet[:1] in [bytes([int(unit)]) for unit in units()]
    return packet if is_ours or not is_sent else b""


async def main():
    servers = []
    for port in sys.argv[2:]:
        all = [device(unit, tables) for unit, tables in units().items()]
        if port.startswith("tcp:"):
            address = ("127.0.0.1", int(port[4:]))
            serve = StartAsyncTcpServer(all, address=address)
        else:
            serve = StartAsyncSerialServer(
                all, framer=FramerType.RTU, port=port, baudrate=9600, trace_packet=only_ours)
        servers.append(asyncio.create_task(serve))
    await asyncio.sleep(1)
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.cancel()


asyncio.run(main())
