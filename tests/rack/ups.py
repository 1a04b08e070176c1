"""pymodbus as an APC Smart-UPS, unit 1, on each of the ports named behind a file.

The file has the seconds of runtime left and the input's volts, and is read at each
request: usage is `ups.py FILE PORT…`. Prints a line once it listens. Ends with its
standard input.
"""

import asyncio
import sys

from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

SIZE = 600


async def follow(function, start, address, count, registers, values):
    with open(sys.argv[1]) as file:
        runtime, volts = (int(word) for word in file.read().split())
    now = {128: runtime >> 16, 129: runtime & 0xFFFF, 130: 90 << 9, 131: 54 << 5,
           135: 25 << 7, 136: 30 << 8, 140: 4 << 5, 142: 230 << 6, 144: 50 << 7,
           151: volts << 6}
    for at, value in now.items():
        registers[at - start] = value & 0xFFFF


async def main():
    servers = []
    for port in sys.argv[2:]:
        registers = SimData(0, values=[0x2020] * SIZE, datatype=DataType.REGISTERS)
        device = SimDevice(1, simdata=registers, action=follow)
        servers.append(asyncio.create_task(StartAsyncSerialServer(
            device, framer=FramerType.RTU, port=port, baudrate=9600)))
    await asyncio.sleep(1)
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.cancel()


asyncio.run(main())
