-- What a customer owes to whom every month: instalments of loans, buy now pay later, rent, and
-- payments by a mandate or a standing order.
--
-- subject: income and obligations
-- grain:  one row per customer, currency, kind and creditor
-- key:    obligation_id
-- stored: table
-- apart:  customer by customer_id
-- counts: streams of payments out of all accounts of the customer, see int_payment_streams; those
--         of a joint account count for each of its holders
-- zone:   months are Riyadh months of booking. A month is full where it is full for the customer,
--         see int_customer_months, and every account that paid is known on all its days. That
--         includes accounts that are closed or no longer shared
-- columns:
--   obligation_id       The customer, currency, kind and creditor; a hash of these.
--   customer_id         Customer who pays.
--   currency            Currency of the payments, ISO 4217.
--   party_kind          What identifies the creditor; see int_counterparty_movements.
--   party               Value that identifies the creditor, of the kind that party_kind names.
--   counterparty_key    The creditor's account; null where the bank does not give it.
--   kind                loan (instalments), bnpl, rent, or mandate for anything else that a mandate
--                       or a standing order pays.
--   source              flagged, where the bank marks it as a loan; direct_debit or standing_order
--                       by the bank's marks; else inferred from the bank's kind or text.
--   monthly_average     Payments in full months over the number of full months, rounded to three
--                       places, months without a payment included; null without a full month.
--   active_average      Payments over the number of months with a payment, rounded to three places.
--   last_payment        The last payment; of several on the same day, the payment with the largest
--                       id.
--   total_payment       Sum of the payments.
--   disbursed           What the same creditor paid out as a loan; null where the bank marks no
--                       such payment.
--   payment_count       Number of payments.
--   months_seen         Number of months with a payment.
--   full_months         Months that monthly_average rests on.
--   account_count       Accounts that paid.
--   is_ongoing          Whether any of its streams has at most one payment overdue or, if
--                       irregular, was paid within ninety days of the last covered day.
--   first_date          Day of the first payment.
--   last_date           Day of the last payment.
--   opaque_share        Share of an account's money that was not understood, the largest of the
--                       accounts that paid; see int_payment_streams.
--   data_through_date   Last covered day of the accounts that paid.
--   movement_ids        The payments, by day.
-- sample: select kind, source, count(*) as obligations, sum(monthly_average) as monthly from
--         fct_obligations where currency = 'SAR' and is_ongoing group by all
with holders as (

    select distinct
        account_key,
        customer_id
    from bridge_accounts

),

streams as (

    select
        streams.stream_id,
        streams.account_key,
        holders.customer_id,
        streams.currency,
        streams.party_kind,
        streams.party,
        streams.counterparty_key,
        case streams.kind
            when 'instalment' then 'loan' when 'bnpl' then 'bnpl' when 'rent' then 'rent'
            else 'mandate'
        end as kind,
        case
            when streams.kind = 'instalment' and streams.kind_source = 'flag' then 'flagged'
            when streams.is_direct_debit then 'direct_debit'
            when streams.is_standing_order then 'standing_order'
            else 'inferred'
        end as source,
        coalesce(
            streams.overdue_count <= 1, streams.data_through_date - streams.last_date <= 90
        ) as is_ongoing,
        streams.opaque_share,
        streams.data_through_date
    from int_payment_streams as streams
    inner join holders on streams.account_key = holders.account_key
    where
        streams.direction = 'out'
        and (
            streams.kind in ('instalment', 'bnpl', 'rent')
            or streams.is_direct_debit
            or streams.is_standing_order
        )

),

owed as (

    select
        *,
        md5(concat_ws('|', customer_id, currency, kind, party_kind, party)) as obligation_id
    from streams

),

payments as (

    select
        owed.obligation_id,
        movements.movement_id,
        movements.payment,
        movements.booking_date,
        strftime(movements.booking_date, '%Y-%m') as month
    from int_counterparty_movements as movements
    inner join owed on movements.stream_id = owed.stream_id

),

payers as (

    select distinct
        obligation_id,
        customer_id,
        account_key
    from owed

),

payer_counts as (

    select
        obligation_id,
        count(*) as account_count
    from payers
    group by obligation_id

),

full_months as (

    select
        payers.obligation_id,
        months.riyadh_month as month
    from payers
    inner join int_account_months as months on payers.account_key = months.account_key
    inner join payer_counts on payers.obligation_id = payer_counts.obligation_id
    inner join int_customer_months as whole
        on
            payers.customer_id = whole.customer_id
            and months.riyadh_month = whole.riyadh_month
    where months.is_full_month and whole.is_full_month
    group by payers.obligation_id, months.riyadh_month, payer_counts.account_count
    having count(*) = payer_counts.account_count

),

full_counts as (

    select
        obligation_id,
        count(*) as full_months
    from full_months
    group by obligation_id

),

gathered as (

    select
        payments.obligation_id,
        sum(payments.payment) as total,
        sum(payments.payment) filter (where full_months.month is not null) as total_in_full,
        count(*) as payment_count,
        count(distinct payments.month) as months_seen,
        min(payments.booking_date) as first_date,
        max(payments.booking_date) as last_date,
        -- Sorted afterwards: a single thread gathers a list that has to be in order.
        list_sort(
            list({
                'booking_date': payments.booking_date,
                'movement_id': payments.movement_id,
                'payment': payments.payment
            })
        ) as evidence
    from payments
    left join full_months
        on
            payments.obligation_id = full_months.obligation_id
            and payments.month = full_months.month
    group by payments.obligation_id

),

paid as (

    select
        *,
        evidence[-1]['payment'] as last_payment,
        list_transform(evidence, lambda one: one['movement_id']) as movement_ids
    from gathered

),

creditors as (

    select
        obligation_id,
        any_value(customer_id) as customer_id,
        any_value(currency) as currency,
        any_value(kind) as kind,
        any_value(party_kind) as party_kind,
        any_value(party) as party,
        any_value(counterparty_key) as counterparty_key,
        min_by(
            source,
            case source
                when 'flagged' then 1 when 'direct_debit' then 2 when 'standing_order' then 3 else 4
            end
        ) as source,
        bool_or(is_ongoing) as is_ongoing,
        max(opaque_share) as opaque_share,
        max(data_through_date) as data_through_date
    from owed
    group by obligation_id

),

disbursed as (

    select
        holders.customer_id,
        streams.currency,
        streams.party,
        sum(streams.total_payment) as disbursed
    from int_payment_streams as streams
    inner join holders on streams.account_key = holders.account_key
    where streams.direction = 'in' and streams.kind = 'disbursement'
    group by all

)

select
    -- ids
    creditors.obligation_id,
    creditors.customer_id,
    creditors.counterparty_key,

    -- money
    creditors.currency,
    case
        when full_counts.full_months > 0
            then mean_amount(coalesce(paid.total_in_full, 0), full_counts.full_months)
    end as monthly_average,
    mean_amount(paid.total, paid.months_seen) as active_average,
    paid.last_payment,
    paid.total::decimal(38, 9) as total_payment,
    disbursed.disbursed::decimal(38, 9) as disbursed,

    -- attributes
    creditors.kind,
    creditors.party_kind,
    creditors.party,
    creditors.source,

    -- counts
    paid.payment_count,
    paid.months_seen,
    coalesce(full_counts.full_months, 0) as full_months,
    payer_counts.account_count,

    -- flags
    creditors.is_ongoing,

    -- times
    paid.first_date,
    paid.last_date,

    -- coverage
    creditors.data_through_date,
    creditors.opaque_share,

    -- trace
    paid.movement_ids
from creditors
inner join paid on creditors.obligation_id = paid.obligation_id
inner join payer_counts on creditors.obligation_id = payer_counts.obligation_id
left join full_counts on creditors.obligation_id = full_counts.obligation_id
left join disbursed
    on
        creditors.customer_id = disbursed.customer_id
        and creditors.currency = disbursed.currency
        and creditors.party = disbursed.party
        and creditors.kind = 'loan'
