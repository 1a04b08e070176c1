"""A scraper that shares nothing with us: Prometheus' own parser of OpenMetrics reads what
the first argument's port serves, a JSON line for each sample. With a second port, a value
is handed in there by OTLP first."""

import json
import sys
from http.client import HTTPConnection

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def ask(port, method, path, body=None, headers={}):
    connection = HTTPConnection("127.0.0.1", int(port), timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    assert answer.status == 200, (answer.status, answer.read())
    return answer


if len(sys.argv) > 2:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add()
    metric.name, metric.unit = "shop.till", "1"
    metric.gauge.data_points.add().as_double = 4
    body = request.SerializeToString()
    headers = {"content-type": "application/x-protobuf"}
    ask(sys.argv[2], "POST", "/v1/metrics", body, headers)

answer = ask(sys.argv[1], "GET", "/metrics")
media_type = answer.getheader("content-type")
assert media_type == "application/openmetrics-text; version=1.0.0; charset=utf-8", media_type
for family in text_string_to_metric_families(answer.read().decode()):
    for sample in family.samples:
        line = {"family": family.name, "type": family.type, "unit": family.unit,
                "name": sample.name, "labels": sample.labels, "value": sample.value}
        print(json.dumps(line))
