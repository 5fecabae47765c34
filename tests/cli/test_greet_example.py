"""The greet example: its servicer, its server process, its two clients, and that the generated code is up to date."""

from __future__ import annotations

import queue
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import grpc
import grpc_testing
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

from examples.greet import client_long, client_short
from examples.greet.connection import local_ports, open_channel, parse_arguments
from examples.greet.server import SERVICE, Greeter, Pod
from greet import greet_pb2, greet_pb2_grpc

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60


def request(text: str) -> greet_pb2.GreetRequest:
    return greet_pb2.GreetRequest(input=text)


@pytest.fixture
def servicer() -> grpc_testing.Server:
    service = greet_pb2.DESCRIPTOR.services_by_name["GrpcService"]
    return grpc_testing.server_from_dictionary({service: Greeter("greet-1")}, grpc_testing.strict_real_time())


@pytest.fixture
def pod() -> Iterator[Pod]:
    running = Pod("greet-1")
    yield running
    running.stop(grace_s=0)


def method(name: str) -> MethodDescriptor:
    return greet_pb2.DESCRIPTOR.services_by_name["GrpcService"].methods_by_name[name]


def test_greet_names_the_input_and_the_pod(servicer: grpc_testing.Server) -> None:
    call = servicer.invoke_unary_unary(method("Greet"), (), request("test"), None)
    reply, _, code, _ = call.termination()
    assert (reply.message, code) == ("Got input test server host: greet-1", grpc.StatusCode.OK)


def test_greet_all_answers_once_for_all_requests(servicer: grpc_testing.Server) -> None:
    call = servicer.invoke_stream_unary(method("GreetAll"), (), None)
    call.send_request(request("a"))
    call.send_request(request("b"))
    call.requests_closed()
    reply, _, code, _ = call.termination()
    assert (reply.message, code) == ("Got input a, b server host: greet-1", grpc.StatusCode.OK)


def test_greet_repeatedly_answers_as_often_as_asked_for(servicer: grpc_testing.Server) -> None:
    repeated = greet_pb2.GreetRepeatedlyRequest(input="test", repetitions=2)
    call = servicer.invoke_unary_stream(method("GreetRepeatedly"), (), repeated, None)
    messages = [call.take_response().message for _ in range(2)]
    _, code, _ = call.termination()
    assert (messages, code) == (["Got input test server host: greet-1"] * 2, grpc.StatusCode.OK)


def test_greet_each_answers_each_request_before_the_next_is_sent(servicer: grpc_testing.Server) -> None:
    call = servicer.invoke_stream_stream(method("GreetEach"), (), None)
    for text in ("a", "b"):
        call.send_request(request(text))
        assert call.take_response().message == f"Got input {text} server host: greet-1"
    call.requests_closed()
    _, code, _ = call.termination()
    assert code is grpc.StatusCode.OK


def test_server_serves_health_and_reflection(pod: Pod) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_S, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_server_refuses_a_port_another_one_holds(pod: Pod) -> None:
    with pytest.raises(RuntimeError):
        Pod("greet-2", port=pod.port)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else takes it, but not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def start_server_process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "examples.greet.server", "--address", "127.0.0.1", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_server_process_lets_a_running_call_finish_after_sigterm() -> None:
    requests: queue.SimpleQueue[greet_pb2.GreetRequest | None] = queue.SimpleQueue()
    with start_server_process("--port", "0", "--host-name", "greet-7") as process:
        assert process.stdout is not None
        served = re.fullmatch(r"greet-7 serves greet.GrpcService on (127.0.0.1:\d+)\n", process.stdout.readline())
        assert served is not None
        with grpc.insecure_channel(served[1]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_S)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            replies = greet_pb2_grpc.GrpcServiceStub(channel).GreetEach(iter(requests.get, None), timeout=DEADLINE_S)
            requests.put(request("a"))
            assert next(replies).message == "Got input a server host: greet-7"

            process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            requests.put(request("b"))
            assert next(replies).message == "Got input b server host: greet-7"
            requests.put(None)
            assert list(replies) == []
            assert replies.code() is grpc.StatusCode.OK
        assert process.wait(DEADLINE_S) == 0


def test_server_process_says_in_one_line_that_its_port_is_taken(pod: Pod) -> None:
    with start_server_process("--port", str(pod.port)) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{pod.port}: is the port taken?" in errors
    assert "Traceback" not in errors


def ports_of(output: str) -> list[str]:
    return re.findall(r"^Client ports used: (.*)$", output, re.MULTILINE)[0].split()


def test_long_lived_client_holds_one_port_for_all_calls(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_long.main(["--target", f"127.0.0.1:{pod.port}", "--calls", "4"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[:4] == ["Response from Service: Got input test server host: greet-1"] * 4
    assert len(ports_of(output)) == 1


def test_short_connection_client_uses_a_port_per_call(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_short.main(["--target", f"127.0.0.1:{pod.port}", "--calls", "4", "--input", "x"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[:4] == ["Response from Service: Got input x server host: greet-1"] * 4
    assert len(set(ports_of(output))) == 4


def self_signed(alternative: x509.GeneralName) -> tuple[bytes, bytes]:
    """Key and certificate as PEM, made the way a gateway without a configured certificate makes its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def test_channels_to_one_gateway_have_connections_of_their_own(pod: Pod) -> None:
    arguments = parse_arguments("test", ["--target", f"127.0.0.1:{pod.port}"])
    with open_channel(arguments, None) as first, open_channel(arguments, None) as second:
        for channel in (first, second):
            greet_pb2_grpc.GrpcServiceStub(channel).Greet(request("x"), timeout=DEADLINE_S)
        assert len(local_ports(pod.port)) == 2


@contextmanager
def tls_server(alternative: x509.GeneralName) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4))
    greet_pb2_grpc.add_GrpcServiceServicer_to_server(Greeter("greet-1"), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([self_signed(alternative)]))
    server.start()
    yield port
    server.stop(0).wait()


@pytest.mark.parametrize("client", [client_long, client_short])
def test_clients_trust_the_self_signed_certificate_they_are_shown(
    client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with tls_server(x509.DNSName("gateway.example")) as port:
        assert client.main(["--target", f"127.0.0.1:{port}", "--tls", "--calls", "2"]) == 0
    assert capsys.readouterr().out.count("Got input test server host: greet-1") == 2


def test_clients_say_in_one_line_that_a_certificate_names_no_host(capsys: pytest.CaptureFixture[str]) -> None:
    with tls_server(x509.IPAddress(ip_address("127.0.0.1"))) as port:
        assert client_long.main(["--target", f"127.0.0.1:{port}", "--tls"]) == 1
    assert re.fullmatch(r"no connection: the certificate .* is for no host name\n", capsys.readouterr().err)


@pytest.mark.parametrize("flags", [[], ["--tls"]])
@pytest.mark.parametrize("client", [client_long, client_short])
def test_clients_say_in_one_line_that_nobody_answers(
    client: ModuleType, flags: list[str], unused_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.main(["--target", f"127.0.0.1:{unused_port}", *flags]) == 1
    assert re.fullmatch(r"(call failed: UNAVAILABLE|no connection): .*\n", capsys.readouterr().err)


def test_clients_reject_a_target_without_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client_long.main(["--target", "localhost"])
    assert "expected host:port" in capsys.readouterr().err


def compiled_description(directory: Path) -> descriptor_pb2.FileDescriptorProto:
    """What the compiler makes of greet.proto now, without the JSON names that generated Python code leaves out."""
    output = directory / "descriptors"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"--descriptor_set_out={output}", "greet/greet.proto"]
    assert protoc.main(arguments) == 0
    (description,) = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file
    for message in description.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return description


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """Compares what is described, not the text: that changes with every release of the compiler."""
    committed = descriptor_pb2.FileDescriptorProto.FromString(greet_pb2.DESCRIPTOR.serialized_pb)
    assert committed == compiled_description(tmp_path), "run `make proto`"
    (service,) = committed.service
    stub = greet_pb2_grpc.GrpcServiceStub(grpc.insecure_channel("127.0.0.1:1"))
    assert vars(stub).keys() == {method.name for method in service.method}
    stubs_file = (ROOT / "protos/greet/greet_pb2.pyi").read_text()
    fields = {field.name for message in committed.message_type for field in message.field}
    assert fields <= set(re.findall(r"^    (\w+): ", stubs_file, re.MULTILINE))


def test_mapping_of_the_example_is_the_scenarios_own() -> None:
    resolver, mapping = yaml.safe_load_all((ROOT / "examples/greet/greet.yaml").read_text())
    assert resolver["metadata"]["name"] == mapping["spec"]["resolver"]
    assert mapping["spec"]["prefix"] == mapping["spec"]["rewrite"] == f"/{SERVICE}/"


def test_pods_of_the_example_belong_to_the_service_the_mapping_names() -> None:
    _, mapping = yaml.safe_load_all((ROOT / "examples/greet/greet.yaml").read_text())
    service, endpoints = yaml.safe_load_all((ROOT / "examples/greet/pods.yaml").read_text())
    (port,) = service["spec"]["ports"]
    metadata = service["metadata"]
    assert mapping["spec"]["service"] == f"{metadata['name']}.{metadata['namespace']}:{port['port']}"
    assert endpoints["metadata"] == metadata
    assert {p["name"] for subset in endpoints["subsets"] for p in subset["ports"]} == {port["name"]}
