"""A month of billing through Stripe's public Python client: everything a subscription goes through. Arguments: base
URL, key. Time is a test clock's; everything it moves happens before the answer."""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import stripe

base, stripe.api_key = sys.argv[1], sys.argv[2]
stripe.api_base = base
stripe.max_network_retries = 0
DAY = 86400
START = 1767225600  # 2026-01-01T00:00:00Z


def control(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}/_sandbox/{path}", data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def visit(url, form=None):
    """A browser's visit; status, where it is sent, the page."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.build_opener(Stay).open(url, data) as answer:
            return answer.status, None, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers.get("location"), answer.read().decode()


def expect(error, call, **fields):
    try:
        call()
    except error as e:
        for name, value in fields.items():
            got = e.http_status if name == "http_status" else e.json_body["error"].get(name)
            assert got == value, f"{name}: {got!r} is not {value!r} ({e})"
        return e
    raise AssertionError(f"no {error.__name__}")


def same(got, want):
    assert got == want, f"{got!r} is not {want!r}"


def kinds(**filters):
    """The kinds of the events so far, oldest first."""
    events = list(stripe.Event.list(limit=100, **filters).auto_paging_iter())
    return [e.type for e in reversed(events)]


def advance(clock, to):
    same(stripe.test_helpers.TestClock.advance(clock.id, frozen_time=to).status, "advancing")
    same(stripe.test_helpers.TestClock.retrieve(clock.id).status, "ready")


def use(customer, value, at, identifier):
    stripe.billing.MeterEvent.create(
        event_name="calls", payload={"stripe_customer_id": customer, "value": str(value)}, timestamp=at,
        identifier=identifier,
    )


# what is sold: a flat fee, and overage by graduated tiers on a meter; a dearer plan; a yearly one
meter = stripe.billing.Meter.create(
    event_name="calls", display_name="Calls", default_aggregation={"formula": "sum"},
    customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"},
    value_settings={"event_payload_key": "value"},
)
starter = stripe.Product.create(name="Starter")
pro = stripe.Product.create(name="Pro")


def flat(product, amount, interval="month"):
    return stripe.Price.create(
        product=product.id, currency="usd", unit_amount=amount, recurring={"interval": interval},
    )


def metered(product, included, each):
    return stripe.Price.create(
        product=product.id, currency="usd", billing_scheme="tiered", tiers_mode="graduated",
        tiers=[{"up_to": included, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": each}],
        recurring={"interval": "month", "usage_type": "metered", "meter": meter.id},
    )


starter_fee, starter_use = flat(starter, 2900), metered(starter, 1000, "0.5")
pro_fee, pro_use = flat(pro, 9900), metered(pro, 10000, "0.2")
pro_year = flat(pro, 99000, "year")

# a customer on a clock, with a card
clock = stripe.test_helpers.TestClock.create(frozen_time=START, name="January")
acme = stripe.Customer.create(name="Acme", email="ops@acme.test", test_clock=clock.id)
same(acme.created, START)
card = stripe.PaymentMethod.attach("pm_card_visa", customer=acme.id)
same(card.card.last4, "4242")
stripe.Customer.modify(acme.id, invoice_settings={"default_payment_method": card.id})
same([m.id for m in stripe.Customer.list_payment_methods(acme.id)], [card.id])
same(stripe.Customer.retrieve_payment_method(acme.id, card.id).id, card.id)
same(stripe.PaymentMethod.modify(card.id, metadata={"a": "b"}).metadata["a"], "b")
expect(stripe.CardError, lambda: stripe.PaymentMethod.attach("pm_card_chargeDeclined", customer=acme.id),
       http_status=402, code="card_declined", decline_code="generic_decline")

# everything is found by what was written on it
same([c.id for c in stripe.Customer.search(query="email:'ops@acme.test'").data], [acme.id])
same([p.id for p in stripe.Product.search(query="name:'Pro'").data], [pro.id])
same([p.id for p in stripe.Price.search(query=f"product:'{starter.id}' AND unit_amount:'2900'").data], [starter_fee.id])

# saving a card
intent = stripe.SetupIntent.create(customer=acme.id, usage="off_session", payment_method_types=["card"])
same(intent.status, "requires_payment_method")
same(stripe.SetupIntent.confirm(intent.id, payment_method="pm_card_mastercard").status, "succeeded")
same(stripe.SetupIntent.retrieve(intent.id, expand=["payment_method"]).payment_method.card.brand, "mastercard")
stripe.SetupIntent.modify(intent.id, description="second card")
unused = stripe.SetupIntent.create(customer=acme.id, automatic_payment_methods={"enabled": True})
same(stripe.SetupIntent.cancel(unused.id, cancellation_reason="abandoned").status, "canceled")
same(len(stripe.SetupIntent.list(customer=acme.id).data), 2)
secure = stripe.SetupIntent.create(
    customer=acme.id, payment_method="pm_card_authenticationRequired", confirm=True, return_url="http://x.test/back",
)
same(secure.status, "requires_action")
same(visit(secure.next_action.redirect_to_url.url, {"agree": "yes"})[1], "http://x.test/back")
same(stripe.SetupIntent.retrieve(secure.id).status, "succeeded")
second = stripe.SetupIntent.retrieve(intent.id).payment_method
stripe.PaymentMethod.detach(second)
same(len(stripe.PaymentMethod.list(customer=acme.id, type="card").data), 2)

# a coupon and its code
coupon = stripe.Coupon.create(percent_off=50, duration="once", id="HALF", name="Half")
code = stripe.PromotionCode.create(promotion={"type": "coupon", "coupon": "HALF"}, code="WELCOME")
same(stripe.PromotionCode.list(code="WELCOME").data[0].id, code.id)
same(stripe.PromotionCode.retrieve(code.id, expand=["promotion.coupon"]).promotion.coupon.percent_off, 50)
same(stripe.PromotionCode.modify(code.id, metadata={"k": "v"}).active, True)
same(stripe.Coupon.retrieve("HALF").valid, True)
same(stripe.Coupon.modify("HALF", name="Half off").name, "Half off")
same(len(stripe.Coupon.list().data), 1)

# a subscription with usage: half price for the first month
preview = stripe.Invoice.create_preview(
    customer=acme.id, subscription_details={"items": [{"price": starter_fee.id}, {"price": starter_use.id}]},
)
same((preview.amount_due, preview.total), (2900, 2900))
sub = stripe.Subscription.create(
    customer=acme.id, items=[{"price": starter_fee.id}, {"price": starter_use.id}],
    billing_mode={"type": "flexible"}, discounts=[{"promotion_code": code.id}], metadata={"tenant": "acme"},
    expand=["latest_invoice.payments", "items.data.price.product", "discounts"],
)
same((sub.status, sub.latest_invoice.status, sub.latest_invoice.amount_paid), ("active", "paid", 1450))
same(sub.latest_invoice.payments.data[0].status, "paid")
same(sub["items"].data[0].price.product.name, "Starter")
same(sub["items"].data[0].current_period_end, 1769904000)
same(stripe.Coupon.retrieve("HALF").times_redeemed, 1)
same([s.id for s in stripe.Subscription.list(customer=acme.id)], [sub.id])
same([s.id for s in stripe.Subscription.search(query="metadata['tenant']:'acme'").data], [sub.id])
same(len(stripe.Invoice.search(query=f"customer:'{acme.id}' AND status:'paid'").data), 1)
same(kinds(type="customer.subscription.*"), ["customer.subscription.created", "customer.subscription.updated"])
fee_item, use_item = sub["items"].data

# an upgrade half-way through: previewed, then made; usage before at the old price, usage after at the new one
advance(clock, START + 15 * DAY + DAY // 2)
now = START + 15 * DAY + DAY // 2
use(acme.id, 1500, now - 60, "before")
change = {"items": [{"id": fee_item.id, "price": pro_fee.id}, {"id": use_item.id, "price": pro_use.id}]}
upcoming = stripe.Invoice.create_preview(
    subscription=sub.id, subscription_details={**change, "proration_date": now, "proration_behavior": "always_invoice"},
)
# Half of the month is left: half of 29 back (of which half was paid), half of 99 to pay; and 500 calls over 1 000.
lines = [(l.amount, l.parent.subscription_item_details.proration) for l in upcoming.lines.data]
same(lines[:2], [(-1450, True), (4950, True)])
same(sum(l.amount for l in upcoming.lines.data), -1450 + 4950 + 250)
same(upcoming.total, -725 + 2475 + 250)
sub = stripe.Subscription.modify(
    sub.id, **change, proration_behavior="always_invoice", proration_date=now, payment_behavior="error_if_incomplete",
    expand=["latest_invoice"],
)
same(sub.latest_invoice.total, upcoming.total)
same((sub.latest_invoice.billing_reason, sub.latest_invoice.status), ("subscription_update", "paid"))
use(acme.id, 10005, now + 60, "after")

# the period's end: a draft that waits an hour for late usage, then is paid; the coupon held only once
end = fee_item.current_period_end
advance(clock, end + 60)
draft = stripe.Invoice.retrieve(stripe.Subscription.retrieve(sub.id).latest_invoice)
same((draft.status, draft.billing_reason, draft.automatically_finalizes_at), ("draft", "subscription_cycle", end + 3600))
use(acme.id, 10, end - 1, "late")
draft = stripe.Invoice.retrieve(draft.id)
same({(l.quantity, l.amount) for l in draft.lines.data}, {(1, 9900), (10000, 0), (15, 3)})
advance(clock, end + 3700)
paid = stripe.Invoice.retrieve(draft.id, expand=["payments", "discounts"])
same((paid.status, paid.total, paid.amount_paid, paid.discounts), ("paid", 9903, 9903, []))
same([l.id for l in stripe.Invoice.list_lines(paid.id, limit=2).data], [l.id for l in paid.lines.data[:2]])
same([i.status for i in stripe.Invoice.list(subscription=sub.id)], ["paid"] * 3)

# the card is refused: dunning, then a card that works
bad = stripe.PaymentMethod.attach("pm_card_chargeCustomerFail", customer=acme.id)
stripe.Customer.modify(acme.id, invoice_settings={"default_payment_method": bad.id})
march = stripe.Subscription.retrieve(sub.id)["items"].data[0].current_period_end
advance(clock, march + 3700)
failed = stripe.Invoice.retrieve(stripe.Subscription.retrieve(sub.id).latest_invoice)
same((failed.status, failed.attempt_count), ("open", 1))
same(stripe.Subscription.retrieve(sub.id).status, "past_due")
same(failed.next_payment_attempt, march + 3600 + 3 * DAY)
expect(stripe.CardError, lambda: stripe.Invoice.pay(failed.id), http_status=402, code="card_declined")
# A failed call by hand moves the next attempt by itself: five days after the second failure.
advance(clock, march + 3700 + 5 * DAY)
retried = stripe.Invoice.retrieve(failed.id)
same((retried.status, retried.attempt_count), ("open", 3))
stripe.Customer.modify(acme.id, invoice_settings={"default_payment_method": card.id})
same(stripe.Invoice.pay(failed.id).status, "paid")
same(stripe.Subscription.retrieve(sub.id).status, "active")
assert "invoice.payment_failed" in kinds(), kinds()

# the end at the period's end, taken back, and then for good
sub = stripe.Subscription.modify(sub.id, cancel_at_period_end=True)
same((sub.cancel_at_period_end, sub.cancel_at), (True, sub["items"].data[0].current_period_end))
same(stripe.Subscription.modify(sub.id, cancel_at_period_end=False).cancel_at, None)
stripe.Subscription.modify(sub.id, cancel_at_period_end=True, cancellation_details={"feedback": "unused"})
last = sub.cancel_at
advance(clock, last - DAY)
use(acme.id, 10100, last - DAY - 5, "last")
advance(clock, last + 3700)
gone = stripe.Subscription.retrieve(sub.id)
final = stripe.Invoice.retrieve(gone.latest_invoice)
same((final.status, final.total, sum(l.quantity for l in final.lines.data)), ("paid", 20, 10100))
same((gone.status, gone.ended_at, gone.cancellation_details.reason), ("canceled", last, "cancellation_requested"))
same(stripe.Subscription.list(customer=acme.id).data, [])
same([s.id for s in stripe.Subscription.list(customer=acme.id, status="canceled").data], [sub.id])
assert kinds()[-1] == "test_helpers.test_clock.ready"

# a trial that ends without a card: paused, then resumed with one
now = stripe.test_helpers.TestClock.retrieve(clock.id).frozen_time
bare = stripe.Customer.create(name="Bare", test_clock=clock.id)
expect(stripe.InvalidRequestError, lambda: stripe.Subscription.create(customer=bare.id, items=[{"price": starter_fee.id}]),
       http_status=400, code="resource_missing")
trial = stripe.Subscription.create(
    customer=bare.id, items=[{"price": starter_fee.id}], trial_period_days=7,
    trial_settings={"end_behavior": {"missing_payment_method": "pause"}},
)
same((trial.status, trial.trial_end), ("trialing", now + 7 * DAY))
advance(clock, now + 5 * DAY)
assert "customer.subscription.trial_will_end" in kinds()
advance(clock, now + 7 * DAY + 10)
same(stripe.Subscription.retrieve(trial.id).status, "paused")
method = stripe.PaymentMethod.attach("pm_card_visa", customer=bare.id)
stripe.Customer.modify(bare.id, invoice_settings={"default_payment_method": method.id})
back = stripe.Subscription.resume(trial.id, billing_cycle_anchor="now", expand=["latest_invoice"])
same((back.status, back.latest_invoice.amount_paid), ("active", 2900))

# items by themselves
item = stripe.SubscriptionItem.create(subscription=trial.id, price=starter_use.id)
same(stripe.SubscriptionItem.retrieve(item.id).price.id, starter_use.id)
first = stripe.SubscriptionItem.list(subscription=trial.id).data[0]
same(stripe.SubscriptionItem.modify(first.id, quantity=2, proration_behavior="none").quantity, 2)
assert stripe.SubscriptionItem.delete(item.id).deleted
same(stripe.Subscription.cancel(trial.id, invoice_now=False, prorate=False).status, "canceled")

# incomplete, and paid by hand; or never paid
waiting = stripe.Subscription.create(
    customer=bare.id, items=[{"price": starter_fee.id}], payment_behavior="default_incomplete",
    payment_settings={"save_default_payment_method": "on_subscription"}, expand=["latest_invoice.confirmation_secret"],
)
same(waiting.status, "incomplete")
stripe.Invoice.pay(waiting.latest_invoice.id)
same(stripe.Subscription.retrieve(waiting.id).status, "active")
never = stripe.Subscription.create(
    customer=bare.id, items=[{"price": pro_fee.id}], default_payment_method=stripe.PaymentMethod.attach(
        "pm_card_authenticationRequired", customer=bare.id).id,
)
same(never.status, "incomplete")
refusing = stripe.PaymentMethod.attach("pm_card_chargeCustomerFail", customer=bare.id).id
expect(stripe.CardError, lambda: stripe.Subscription.create(
    customer=bare.id, items=[{"price": pro_fee.id}], default_payment_method=refusing,
    payment_behavior="error_if_incomplete"), http_status=402, code="card_declined")
same(len(stripe.Subscription.list(customer=bare.id, status="incomplete").data), 1)
advance(clock, stripe.test_helpers.TestClock.retrieve(clock.id).frozen_time + 24 * 3600)
same(stripe.Subscription.retrieve(never.id).status, "incomplete_expired")
same(stripe.Invoice.retrieve(never.latest_invoice).status, "void")

# yearly with monthly usage on one subscription; a coupon's amount; a discount that ends
off = stripe.Coupon.create(amount_off=10000, currency="usd", duration="repeating", duration_in_months=3)
year = stripe.Subscription.create(
    customer=acme.id, items=[{"price": pro_year.id}, {"price": pro_use.id}], billing_mode={"type": "flexible"},
    discounts=[{"coupon": off.id}], expand=["latest_invoice"],
)
same(year.latest_invoice.total, 89000)
ends = [i.current_period_end - i.current_period_start for i in year["items"].data]
assert ends[0] >= 365 * DAY and ends[1] <= 31 * DAY, ends
stripe.Subscription.cancel(year.id, prorate=True)

# invoices by hand
stripe.InvoiceItem.create(customer=bare.id, amount=500, currency="usd", description="Setup")
extra = stripe.InvoiceItem.create(customer=bare.id, unit_amount_decimal="10", quantity=3, currency="usd")
same(stripe.InvoiceItem.retrieve(extra.id).amount, 30)
dropped = stripe.InvoiceItem.create(customer=bare.id, amount=1, currency="usd")
stripe.InvoiceItem.delete(dropped.id)
same(len(stripe.InvoiceItem.list(customer=bare.id, pending=True).data) >= 2, True)
invoice = stripe.Invoice.create(customer=bare.id, currency="usd", pending_invoice_items_behavior="include")
same(invoice.total, 530)
same(stripe.Invoice.modify(invoice.id, description="by hand").description, "by hand")
same(stripe.Invoice.finalize_invoice(invoice.id, auto_advance=False).status, "open")
same(stripe.Invoice.mark_uncollectible(invoice.id).status, "uncollectible")
same(stripe.Invoice.void_invoice(invoice.id).status, "void")
empty = stripe.Invoice.create(customer=bare.id, currency="usd", pending_invoice_items_behavior="exclude")
assert stripe.Invoice.delete(empty.id).deleted
sent = stripe.Invoice.create(customer=bare.id, collection_method="send_invoice", days_until_due=30, currency="usd")
same(stripe.Invoice.send_invoice(sent.id).status, "paid")

# checkout, clicked through
session = stripe.checkout.Session.create(
    mode="subscription", line_items=[{"price": starter_fee.id, "quantity": 1}, {"price": starter_use.id}],
    success_url="http://x.test/done?s={CHECKOUT_SESSION_ID}", cancel_url="http://x.test/no",
    customer_email="new@buyer.test", client_reference_id="tenant-7", allow_promotion_codes=True,
    subscription_data={"metadata": {"tenant": "7"}, "billing_mode": {"type": "flexible"}},
    metadata={"plan": "starter"},
)
same((session.status, session.payment_status, session.amount_total), ("open", "unpaid", 2900))
status, _, page = visit(session.url)
assert status == 200 and 'id=pay' in page and "29.00 USD" in page and "x.test/no" in page
form = {"email": "new@buyer.test", "card": "chargeDeclinedInsufficientFunds"}
status, _, page = visit(session.url, form)
assert status == 402 and "insufficient funds" in page, page
same(stripe.checkout.Session.retrieve(session.id).status, "open")
status, _, page = visit(session.url, {**form, "card": "visa", "promotion_code": "NOPE"})
same(status, 400)
status, location, _ = visit(session.url, {**form, "card": "visa", "promotion_code": "welcome"})
same((status, location), (303, f"http://x.test/done?s={session.id}"))
done = stripe.checkout.Session.retrieve(session.id, expand=["subscription", "customer", "line_items", "invoice"])
same((done.status, done.payment_status, done.url), ("complete", "paid", None))
same((done.customer.email, done.subscription.status, done.subscription.metadata["tenant"]), ("new@buyer.test", "active", "7"))
same((done.invoice.total, len(done.line_items.data)), (1450, 2))
same(stripe.checkout.Session.modify(session.id, metadata={"k": "v"}).metadata["k"], "v")
same(len(stripe.checkout.Session.list_line_items(session.id).data), 2)
other = stripe.checkout.Session.create(mode="setup", customer=acme.id, success_url="http://x.test/", payment_method_types=["card"])
same(visit(other.url, {"card": "authenticationRequired"})[0], 200)
same(visit(other.url, {"card": "authenticationRequired", "agree": "yes"})[0], 303)
same(stripe.checkout.Session.retrieve(other.id, expand=["setup_intent"]).setup_intent.status, "succeeded")
third = stripe.checkout.Session.create(
    mode="subscription", line_items=[{"price": pro_fee.id, "quantity": 1}], success_url="http://x.test/",
    customer=acme.id, subscription_data={"trial_period_days": 14},
)
same(third.amount_total, 0)
same(stripe.checkout.Session.expire(third.id).status, "expired")
same([s.id for s in stripe.checkout.Session.list(status="complete").data], [other.id, session.id])

# the portal, clicked through
configuration = stripe.billing_portal.Configuration.create(
    business_profile={"headline": "Acme"},
    features={
        "subscription_cancel": {"enabled": True, "mode": "at_period_end"},
        "payment_method_update": {"enabled": True},
        "invoice_history": {"enabled": True},
        "subscription_update": {
            "enabled": True, "default_allowed_updates": ["price"], "proration_behavior": "always_invoice",
            "products": [{"product": pro.id, "prices": [pro_fee.id]}, {"product": starter.id, "prices": [starter_fee.id]}],
        },
    },
)
stripe.billing_portal.Configuration.modify(configuration.id, name="plans")
same(stripe.billing_portal.Configuration.retrieve(configuration.id).name, "plans")
buyer, bought = done.customer.id, done.subscription.id
portal = stripe.billing_portal.Session.create(customer=buyer, configuration=configuration.id, return_url="http://x.test/account")
page = visit(portal.url)[2]
assert 'id=cancel' in page and 'id=switch' in page and "x.test/account" in page
assert visit(portal.url, {"action": "cancel", "subscription": bought})[0] == 200
same(stripe.Subscription.retrieve(bought).cancel_at_period_end, True)
assert visit(portal.url, {"action": "renew", "subscription": bought})[0] == 200
same(stripe.Subscription.retrieve(bought).cancel_at_period_end, False)
assert visit(portal.url, {"action": "switch", "subscription": bought, "price": pro_fee.id})[0] == 200
same(stripe.Subscription.retrieve(bought)["items"].data[0].price.id, pro_fee.id)
assert visit(portal.url, {"action": "card", "card": "mastercard"})[0] == 200
assert visit(portal.url, {"action": "cancel", "subscription": trial.id})[0] == 404
plain = stripe.billing_portal.Session.create(
    customer=buyer, flow_data={"type": "subscription_cancel", "subscription_cancel": {"subscription": bought}})
same(len(stripe.billing_portal.Configuration.list(is_default=True).data), 1)

# events are there to be fetched
event = stripe.Event.list(type="checkout.session.completed").data[0]
same(stripe.Event.retrieve(event.id).data.object.id, other.id)
assert stripe.Coupon.delete("HALF").deleted
seen = kinds()
assert {"coupon.deleted", "invoice.voided", "invoice.marked_uncollectible", "checkout.session.expired"} <= set(seen), seen
same(stripe.test_helpers.TestClock.list().data[0].id, clock.id)
assert stripe.test_helpers.TestClock.delete(clock.id).deleted
assert stripe.Customer.retrieve(acme.id).deleted
print("a whole month is well")
