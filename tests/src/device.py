"""pymodbus as a device on each of the ports named: unit 17, holding registers 0 to 255.

Prints a line once it listens. Ends with its standard input.
"""

import asyncio
import sys

from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice


def value(address):
    return (address * 257 + 11) & 0xFFFF


async def serve(port):
    registers = SimData(0, values=[value(a) for a in range(256)], datatype=DataType.REGISTERS)
    await StartAsyncSerialServer(
        SimDevice(17, simdata=registers), framer=FramerType.RTU, port=port, baudrate=19200
    )


async def main():
    servers = [asyncio.create_task(serve(port)) for port in sys.argv[1:]]
    await asyncio.sleep(1)
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.cancel()


asyncio.run(main())
