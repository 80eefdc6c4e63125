"""Routes of the directory: customers, entities, consents and banks."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import Any

from lean_resources.sandbox import records
from lean_resources.sandbox.banks import BANKS, bank_record
from lean_resources.sandbox.clock import DAY
from lean_resources.sandbox.replies import Refusal, Reply
from lean_resources.sandbox.routes import Call, Path, Routes
from lean_resources.sandbox.store import Entity


class DirectoryRoutes(Routes):
    """Customers, entities, consents and banks."""

    def table(self) -> list[Path]:
        """The endpoints."""
        customer = "/customers/v1/{customer_id}"
        entity = customer + "/entities/{entity_id}"
        return [
            ("POST", "/customers/v1", self._create_customer),
            ("GET", "/customers/v1", self._list_customers),
            ("GET", "/customers/v1/entities", self._list_entities),
            ("GET", "/customers/v1/app-user-id/{app_user_id:path}", self._customer_by_user),
            ("GET", customer, self._get_customer),
            ("GET", customer + "/entities", self._entities_of_customer),
            ("GET", entity, self._get_entity),
            ("DELETE", entity, self._delete_entity),
            ("DELETE", entity + "/consent/{consent_id}", self._delete_consent),
            ("GET", customer + "/consents", self._list_consents),
            ("GET", customer + "/consents/{consent_id}", self._get_consent),
            ("GET", "/banks/v1", self._list_banks),
        ]

    def _customer(self, call: Call) -> int:
        customer = self.store.customer_of(call.uuid("customer_id", path=True))
        if customer is None:
            raise Refusal(404, "UNKNOWN_CUSTOMER")
        return customer

    def _entity_of_customer(self, call: Call) -> Entity:
        customer = self._customer(call)
        entity = self._known(call.uuid("entity_id", path=True))
        if entity.blueprint.customer != customer:
            raise Refusal(404, "UNKNOWN_ENTITY")
        return entity

    def _create_customer(self, call: Call) -> Reply:
        app_user_id = call.json().get("app_user_id")
        if not isinstance(app_user_id, str) or not 1 <= len(app_user_id) <= 255:
            raise Refusal.bad_value("app_user_id", app_user_id)
        customer = self.store.create_customer(app_user_id)
        if customer is None:
            raise Refusal(409, "CUSTOMER_ALREADY_EXISTS", has_results_id=False)
        return Reply.json(records.customer_record(self.store, customer))

    def _list_customers(self, call: Call) -> Reply:
        customers = range(self.store.customer_total)
        write = partial(records.customer_record, self.store)
        return self._listed(call, customers, write, names="page_number page_size")

    def _get_customer(self, call: Call) -> Reply:
        return Reply.json(records.customer_record(self.store, self._customer(call)))

    def _customer_by_user(self, call: Call) -> Reply:
        customer = self.store.customer_by_user(call.path["app_user_id"])
        if customer is None:
            raise Refusal(404, "UNKNOWN_CUSTOMER")
        return Reply.json(records.customer_record(self.store, customer))

    def _list_entities(self, call: Call) -> Reply:
        today = self.clock.today
        first, last = call.day("start_date", today), call.day("end_date", today)
        if first is None or last is None:
            raise Refusal.missing("start_date" if first is None else "end_date")
        if first > last:
            raise Refusal.bad_value("end_date", call.query["end_date"])
        places = range(self.store.entity_total)
        low = bisect_left(places, first * DAY, key=self.store.created_at)
        high = bisect_left(places, (last + 1) * DAY, key=self.store.created_at)

        def write(place: int) -> dict[str, Any]:
            entity = self.store.entity(self.store.entity_key_at(place))
            return records.entity_record(self.store, entity, listed=True)

        newest_first = range(high - 1, low - 1, -1)
        return self._listed(call, newest_first, write, names="page_number page_size", size=100)

    def _entities_of_customer(self, call: Call) -> Reply:
        found = self.store.entities_of(self._customer(call))
        kept = [entity for entity in found if not self._is_gone(entity)]
        return Reply.json([records.entity_record(self.store, entity) for entity in kept])

    def _get_entity(self, call: Call) -> Reply:
        return Reply.json(records.entity_record(self.store, self._entity_of_customer(call)))

    def _delete_entity(self, call: Call) -> Reply:
        entity = self._entity_of_customer(call)
        given = call.query.get("reason") or (call.json().get("reason") if call.body else None)
        if given != "USER_REQUESTED":
            raise Refusal.bad_value("reason", given)
        self.store.delete(entity)
        return Reply.json({})

    def _delete_consent(self, call: Call) -> Reply:
        entity = self._entity_of_customer(call)
        wanted = call.uuid("consent_id", path=True)
        if call.query.get("reason") != "USER_REQUESTED":
            raise Refusal.bad_value("reason", call.query.get("reason"))
        if wanted != records.consent_id(self.store, entity, len(entity.consents) - 1):
            raise Refusal(404, "UNKNOWN_CONSENT")
        self.store.revoke(entity)
        return Reply.json({})

    def _consents(self, call: Call) -> list[dict[str, Any]]:
        customer = self.store.customer_of(call.uuid("customer_id", path=True))
        if customer is None:
            raise Refusal(403, "UNKNOWN_CUSTOMER", short=True)
        found = [
            records.consent_record(self.store, entity, place, listed=True)
            for entity in self.store.entities_of(customer)
            for place in range(len(entity.consents))
        ]
        found.sort(key=lambda consent: str(consent["creation_date_time"]), reverse=True)
        return found

    def _list_consents(self, call: Call) -> Reply:
        found = self._consents(call)
        return self._listed(call, found, dict, names="pageNumber pageSize", size=20)

    def _get_consent(self, call: Call) -> Reply:
        wanted = call.uuid("consent_id", path=True)
        for consent in self._consents(call):
            if consent["id"] == wanted:
                return Reply.json(consent)
        raise Refusal(404, "UNKNOWN_CONSENT", short=True)

    def _list_banks(self, call: Call) -> Reply:
        kind = call.query.get("account_types") or "PERSONAL"
        if kind not in {"PERSONAL", "BUSINESS"}:
            raise Refusal.bad_value("account_types", kind)
        inactive = self.store.inactive
        return Reply.json(
            [
                bank_record(bank, active=bank.identifier not in inactive)
                for bank in BANKS.values()
                if bank.business == (kind == "BUSINESS")
            ]
        )
