"""Stripe's public Python client against the sandbox: what a user of Stripe would do. Arguments: base URL, key."""

import json
import sys
import time
import urllib.request

import stripe

base, stripe.api_key = sys.argv[1], sys.argv[2]
stripe.api_base = base
stripe.max_network_retries = 0


def control(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}/_sandbox/{path}", data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def expect(error, call, **fields):
    try:
        call()
    except error as e:
        for name, value in fields.items():
            # The client copies `code` only into some of its errors; the envelope has it always.
            got = e.json_body["error"].get(name) if name in ("type", "code", "param") else getattr(e, name)
            assert got == value, f"{name}: {got!r} is not {value!r} ({e})"
        return e
    raise AssertionError(f"no {error.__name__}")


# customers, with every kind of parameter, and paging through all of them
acme = stripe.Customer.create(
    name="Acme", email="ops@acme.test", description="first", phone="+49 30 1",
    metadata={"tenant": "acme"}, preferred_locales=["de", "en"],
    address={"line1": "Weg 1", "city": "Bonn", "country": "DE"},
    shipping={"name": "Acme", "address": {"line1": "Weg 2"}},
    invoice_settings={"footer": "Danke"},
)
assert acme.id.startswith("cus_") and acme.metadata["tenant"] == "acme" and acme.address.city == "Bonn"
assert stripe.Customer.modify(acme.id, name="Acme GmbH").name == "Acme GmbH"
assert stripe.Customer.retrieve(acme.id).email == "ops@acme.test"
made = [acme.id] + [stripe.Customer.create(name=f"c{i}").id for i in range(24)]
walked = [c.id for c in stripe.Customer.list(limit=10).auto_paging_iter()]
assert walked == list(reversed(made)), walked
back = stripe.Customer.list(limit=3, ending_before=made[10])
assert [c.id for c in back.data] == [made[13], made[12], made[11]] and back.has_more
gone = stripe.Customer.delete(made[-1])
assert gone.deleted and stripe.Customer.retrieve(made[-1]).deleted
assert [c.id for c in stripe.Customer.list(email="ops@acme.test")] == [acme.id]
assert len(stripe.Customer.list(created={"gte": int(time.time()) - 3600}, limit=100).data) == 24

# a product, a meter, a metered price, tiers, lookup keys
product = stripe.Product.create(name="Starter", metadata={"plan": "starter"}, marketing_features=[{"name": "Fast"}])
meter = stripe.billing.Meter.create(
    event_name="api_units", display_name="API units", default_aggregation={"formula": "sum"},
    customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"},
    value_settings={"event_payload_key": "value"},
)
monthly = stripe.Price.create(
    product=product.id, currency="usd", unit_amount=2900, recurring={"interval": "month"}, lookup_key="starter",
)
overage = stripe.Price.create(
    product=product.id, currency="usd", billing_scheme="tiered", tiers_mode="graduated",
    tiers=[{"up_to": 1000, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": "3.5"}],
    recurring={"interval": "month", "usage_type": "metered", "meter": meter.id}, expand=["tiers", "product"],
)
assert overage.tiers[1].up_to is None and overage.tiers[1].unit_amount_decimal is not None
assert overage.product.name == "Starter" and overage.recurring.meter == meter.id
per_package = stripe.Price.create(
    product=product.id, currency="eur", unit_amount_decimal="0.25", transform_quantity={"divide_by": 100, "round": "up"},
    tax_behavior="exclusive", nickname="packages",
)
assert per_package.unit_amount is None
yearly = stripe.Price.create(
    product=product.id, currency="usd", unit_amount=29000, recurring={"interval": "year"},
    lookup_key="starter", transfer_lookup_key=True,
)
assert [p.id for p in stripe.Price.list(lookup_keys=["starter"])] == [yearly.id]
assert stripe.Price.retrieve(monthly.id).lookup_key is None
assert [p.id for p in stripe.Price.list(recurring={"meter": meter.id}, expand=["data.tiers"])] == [overage.id]
assert stripe.Price.modify(monthly.id, active=False, metadata={"a": "b"}).active is False
assert stripe.Product.modify(product.id, default_price=yearly.id, description="d").default_price == yearly.id
assert stripe.Product.retrieve(product.id, expand=["default_price"]).default_price.unit_amount == 29000
assert [p.id for p in stripe.Product.list(active=True, ids=[product.id])] == [product.id]
spare = stripe.Product.create(name="Spare", id="prod_spare")
assert stripe.Product.delete(spare.id).deleted

# meter events: counted once per identifier, whatever the value
now = int(time.time())
minute = now - now % 60


def send(value, identifier, **options):
    return stripe.billing.MeterEvent.create(
        event_name="api_units", payload={"stripe_customer_id": acme.id, "value": str(value)},
        identifier=identifier, timestamp=now, **options,
    )


assert send(100, "e1").identifier == "e1"
send(23, "e2")
send(5, "e3")
twice = expect(
    stripe.InvalidRequestError, lambda: send(100, "e1"),
    http_status=400, code=None, user_message="An event already exists with identifier e1.",
)
assert twice.headers["stripe-should-retry"] == "false" and twice.request_id.startswith("req_")
expect(stripe.InvalidRequestError, lambda: send("1.5", "e4"), http_status=400)
stripe.billing.MeterEventAdjustment.create(type="cancel", event_name="api_units", cancel={"identifier": "e3"})

# idempotency: the same answer again, never another request under the same key
first = send(1, "e5", idempotency_key="k1")
again = send(1, "e5", idempotency_key="k1")
assert first.last_response.headers.get("idempotent-replayed") is None
assert again.last_response.headers["idempotent-replayed"] == "true" and again.created == first.created
expect(stripe.IdempotencyError, lambda: send(2, "e6", idempotency_key="k1"), http_status=400, type="idempotency_error")

# a lost answer: the client sees a broken connection, its own retry gets the answer that was lost
control("faults", {"effect": "lost_answer", "filter": {"path": "/v1/billing/meter_events"}, "times": 1})
expect(stripe.APIConnectionError, lambda: send(10, "e7"))
expect(stripe.InvalidRequestError, lambda: send(10, "e7"), http_status=400)
stripe.max_network_retries = 2
control("faults", {"effect": "lost_answer", "filter": {"path": "/v1/billing/meter_events"}, "times": 1})
assert send(1000, "e8").last_response.headers["idempotent-replayed"] == "true"
stripe.max_network_retries = 0
control("faults", {"effect": {"error_before": {"status": 500}}, "times": 1})
expect(stripe.APIError, lambda: send(1, "e9"), http_status=500)
control("faults", {"effect": {"rate_limited": {"reason": "global-rate"}}, "times": 1})
limited = expect(stripe.RateLimitError, lambda: send(1, "e9"), http_status=429, code="rate_limit")
assert limited.headers["stripe-rate-limited-reason"] == "global-rate"

# summaries and totals agree
total = 100 + 23 + 1 + 10 + 1000
summaries = stripe.billing.Meter.list_event_summaries(meter.id, customer=acme.id, start_time=minute, end_time=minute + 60)
assert [s.aggregated_value for s in summaries.data] == [total], summaries
hour = now - now % 3600
grouped = stripe.billing.Meter.list_event_summaries(
    meter.id, customer=acme.id, start_time=hour - 7200, end_time=hour + 3600, value_grouping_window="hour", limit=1,
)
assert [s.aggregated_value for s in grouped.auto_paging_iter()] == [total]
rows = control("meter_totals")
assert [(r["event_name"], r["customer"], r["sum"], r["events"]) for r in rows] == [("api_units", acme.id, total, 5)], rows

# meters live and rest
assert stripe.billing.Meter.modify(meter.id, display_name="Units").display_name == "Units"
assert stripe.billing.Meter.deactivate(meter.id).status == "inactive"
expect(stripe.InvalidRequestError, lambda: send(1, "e10"), http_status=400)
assert stripe.billing.Meter.reactivate(meter.id).status == "active"
assert stripe.billing.Meter.retrieve(meter.id).status_transitions.deactivated_at is None
assert [m.id for m in stripe.billing.Meter.list(status="active")] == [meter.id]

# refusals
expect(stripe.InvalidRequestError, lambda: stripe.Customer.retrieve("cus_none"), http_status=404, code="resource_missing")
expect(stripe.InvalidRequestError, lambda: stripe.Customer.create(colour="red"), code="parameter_unknown", param="colour")
expect(stripe.InvalidRequestError, lambda: stripe.Product.create(), code="parameter_missing", param="name")
expect(stripe.AuthenticationError, lambda: stripe.Customer.list(api_key="sk_test_other"), http_status=401)
expect(stripe.AuthenticationError, lambda: stripe.Customer.list(api_key="sk_live_x"), http_status=401)
print("all is well")
