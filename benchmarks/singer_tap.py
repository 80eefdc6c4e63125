"""A Singer tap of transactions, written with the Singer SDK the way its guide shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from singer_sdk import RESTStream, Tap
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.pagination import BasePageNumberPaginator


class _Pages(BasePageNumberPaginator):
    def has_more(self, response: Any) -> bool:
        page = response.json()["data"]["page"]
        return self.current_value + 1 < page["total_pages"]


class Transactions(RESTStream[int]):
    """Transactions of every account, one partition each."""

    name = "transactions"
    path = "/data/v2/accounts/{account_id}/transactions"
    records_jsonpath = "$.data.transactions[*]"
    state_partitioning_keys = ()

    @property
    def schema(self) -> dict[str, Any]:
        return self.config["schema"]

    @property
    def url_base(self) -> str:
        return self.config["url"]

    @property
    def authenticator(self) -> BearerTokenAuthenticator:
        return BearerTokenAuthenticator(token="made-up")

    @property
    def partitions(self) -> list[dict[str, Any]]:
        return [
            {"account_id": one["path"].split("/")[-2], "params": one["params"]}
            for one in self.config["reads"]
        ]

    def get_new_paginator(self) -> _Pages:
        return _Pages(start_value=0)

    def get_url_params(self, context: Any, next_page_token: int | None) -> dict[str, Any]:
        return {**context["params"], "page": next_page_token or 0}


class Lean(Tap):
    """The tap."""

    name = "tap-lean"
    config_jsonschema: ClassVar = {"type": "object", "properties": {}}

    def discover_streams(self) -> Iterable[Transactions]:
        return [Transactions(self)]


if __name__ == "__main__":
    Lean.cli()
