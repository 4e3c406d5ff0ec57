"""Everything that the OpenAPI document allows, and much that it does not: never a 5xx."""

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.serve.live import CHAT, served

OTHERS = ["/v1/responses", "/v1/completions", "/v1/embeddings", "/pooling"]
OPERATIONS = [("GET", "/v1/models"), ("GET", "/v1/models/{name}"), ("GET", "/health"), ("GET", "/metrics")]


@pytest.fixture(scope="module")
def address():
    with served(max_tokens=4, max_choices=3) as (url, _):
        yield url


@pytest.fixture(scope="module")
def document(address):
    return schemathesis.openapi.from_dict(httpx2.get(f"{address}/openapi.json").json())


def fuzz(address, cases, examples: int) -> set[int]:
    """The statuses that came of so many requests."""
    seen = set()

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases)
    def run(case):
        response = case.call(base_url=address)
        case.validate_response(response, checks=[not_a_server_error])
        seen.add(response.status_code)

    run()
    return seen


def with_question(case):
    """The case with messages that any model can answer: what else is in it gets its turn."""
    case.body["messages"] = [{"role": "user", "content": "hi"}]
    return case


def test_no_chat_request_breaks_the_server(document, address):
    operation = document[CHAT]["POST"]
    good, bad = (operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
    assert 400 in fuzz(address, good, 60)
    assert 400 in fuzz(address, bad, 60)
    assert {200, 400} <= fuzz(address, good.map(with_question), 100), "no question got as far as its answer"


@pytest.mark.parametrize("path", OTHERS)
def test_no_request_in_other_words_does(document, address, path):
    operation = document[path]["POST"]
    good, bad = (operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
    assert fuzz(address, good, 25) <= {200, 400, 404}
    assert 400 in fuzz(address, bad, 25)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_other_request_does(document, address, method, path):
    strategy = document[path][method].as_strategy()
    assert fuzz(address, strategy, 15) <= {200, 404}


def test_the_document_names_every_route(document):
    operations = [found.ok() for found in document.get_all_operations()]
    assert {(each.method.upper(), each.path) for each in operations} == {
        *(("POST", path) for path in (CHAT, *OTHERS)),
        *OPERATIONS,
    }
