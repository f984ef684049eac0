"""The grammar of Envoy's unified matcher, as far as the routes speak it."""

from __future__ import annotations

from collections.abc import Sequence

from ax_gateway.envoy.words import Resource, extension

ANYTHING = "(?s).*"


def header(name: str) -> Resource:
    """Return the input that reads a request header; absent headers match nothing."""
    return extension("header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)


def fits(name: str, regex: str) -> Resource:
    """Return the predicate that a header is there and fits a regular expression as a whole."""
    value = {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"single_predicate": {"input": header(name), "value_match": value}}


def is_one_of(name: str, values: Sequence[str]) -> Resource:
    """Return the predicate that a header has one of these values, of which there is at least one."""
    found = [{"single_predicate": {"input": header(name), "value_match": {"exact": value}}} for value in values]
    return found[0] if len(found) == 1 else {"or_matcher": {"predicate": found}}


def both(first: Resource, second: Resource) -> Resource:
    """Return the predicate that both hold."""
    return {"and_matcher": {"predicate": [first, second]}}


def either(first: Resource, second: Resource) -> Resource:
    """Return the predicate that one of them holds."""
    return {"or_matcher": {"predicate": [first, second]}}


def negated(predicate: Resource) -> Resource:
    """Return the predicate that another does not hold."""
    return {"not_matcher": predicate}


def first_of(cases: Sequence[tuple[Resource, Resource]], otherwise: Resource) -> Resource:
    """Return the matcher that does what follows the first predicate that holds."""
    matchers = [{"predicate": predicate, "on_match": then} for predicate, then in cases]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": otherwise}


def nested(matcher: Resource) -> Resource:
    """Return a further matcher as what follows."""
    return {"matcher": matcher}


def route(**fields: object) -> Resource:
    """Return a route as what follows."""
    return {"action": extension("route", "envoy.config.route.v3.Route", match={"prefix": "/"}, **fields)}
