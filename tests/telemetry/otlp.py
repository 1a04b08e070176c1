"""Hands a node metrics and logs through OpenTelemetry's own SDK.

usage: otlp.py once|flood PORT
"""

import logging
import sys
import urllib.error
import urllib.request

from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource


def once(base):
    resource = Resource.create({"service.name": "checkout"})
    exporter = OTLPMetricExporter(base + "/v1/metrics", compression=Compression.Gzip)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    meter = provider.get_meter("till")
    requests = meter.create_counter("requests", unit="1")
    latency = meter.create_histogram("latency", unit="ms")
    meter.create_observable_gauge("queue.depth", [lambda _: [Observation(3.5, {"queue": "a"})]])
    requests.add(3, {"way": "in"})
    latency.record(10)
    assert provider.force_flush(), "the first export failed"
    requests.add(4, {"way": "in"})
    latency.record(20)
    assert provider.force_flush(), "the second export failed"
    provider.shutdown()

    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(base + "/v1/logs")))
    set_logger_provider(logs)
    logger = logging.getLogger("till")
    logger.addHandler(LoggingHandler(logger_provider=logs))
    logger.warning("the till is open", extra={"till": 4})
    logs.shutdown()


def flood(base):
    """One request after the other, and what is said to each."""
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    scope.log_records.add().body.string_value = "x" * 4000
    for _ in range(12):
        post = urllib.request.Request(
            base + "/v1/logs",
            request.SerializeToString(),
            {"Content-Type": "application/x-protobuf"},
        )
        try:
            print(urllib.request.urlopen(post, timeout=10).status)
        except urllib.error.HTTPError as error:
            print(f"{error.code}:{error.headers['Retry-After']}")


{"once": once, "flood": flood}[sys.argv[1]](f"http://127.0.0.1:{sys.argv[2]}")
