"""A far side that shares nothing with us: what is posted is read by opentelemetry-proto
(metrics and logs) and by line-protocol-parser (InfluxDB). Its port is the first line of
standard output; a JSON line for each record or point that it took follows.

The file that its argument names says what it answers: nothing or "200", a status, or
"refuse WORD": 400 to whatever contains it."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from line_protocol_parser import parse_line
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)


def plain(attributes):
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in attributes}


def metrics(body):
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        of = plain(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                for point in data.data_points:
                    yield {
                        "what": "point",
                        "resource": of,
                        "scope": scope.scope.name,
                        "name": metric.name,
                        "unit": metric.unit,
                        "kind": kind,
                        "monotonic": getattr(data, "is_monotonic", False),
                        "start": point.start_time_unix_nano,
                        "nanos": point.time_unix_nano,
                        "value": point.as_double,
                        "attributes": plain(point.attributes),
                    }


def logs(body):
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        of = plain(resource.resource.attributes)
        for scope in resource.scope_logs:
            for log in scope.log_records:
                yield {
                    "what": "log",
                    "resource": of,
                    "name": log.event_name,
                    "nanos": log.time_unix_nano,
                    "severity": log.severity_number,
                    "body": log.body.string_value,
                    "attributes": plain(log.attributes),
                }


def lines(body):
    for line in body.decode().splitlines():
        parsed = parse_line(line)
        yield {"what": "line", "name": parsed["measurement"], "nanos": parsed["time"],
               "fields": parsed["fields"], "tags": parsed["tags"]}


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            mode = open(sys.argv[1]).read().split() or ["200"]
        except FileNotFoundError:
            mode = ["200"]
        if mode[0] == "refuse":
            mode = ["400" if mode[1].encode() in body else "200"]
        answer = b""
        if mode == ["200"]:
            if self.path == "/v1/metrics":
                assert self.headers["content-type"] == "application/x-protobuf"
                took, answer = metrics(body), ExportMetricsServiceResponse().SerializeToString()
            elif self.path == "/v1/logs":
                assert self.headers["content-type"] == "application/x-protobuf"
                took, answer = logs(body), ExportLogsServiceResponse().SerializeToString()
            else:
                assert self.path == "/api/v2/write?org=o&bucket=b", self.path
                assert self.headers["authorization"] == "Token secret"
                took, mode = lines(body), ["204"]
            for it in took:
                print(json.dumps(it))
            sys.stdout.flush()
        self.send_response(int(mode[0]))
        if mode != ["204"]:
            self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if mode != ["204"]:
            self.wfile.write(answer)

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
