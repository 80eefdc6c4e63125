-- What banks changed after they had shown it: each field of a movement that differs in a later
-- pull, and movements that are no longer shown.
--
-- subject: trust
-- grain:  one row per version that restates a movement, and changed field
-- key:    account_id, transaction_id, month, version, field
-- stored: by month
-- apart:  account by account_id
-- counts: every status; a pending movement that is booked restates its status
-- zone:   instants are UTC, dates are Riyadh's, month is the UTC month of the movement
-- columns:
--   field                 Column that changed; is_shown where the movement vanished.
--   before_value          What it was, as text; null where it was empty.
--   after_value           What it became, as text; null where it became empty.
--   booking_date          Riyadh day of the movement after the change.
--   seen_at               When the pull that brought the change was asked for, UTC.
--   days_since_booking    Riyadh days from the movement's day to told_at.
--   was_booked            Whether the movement was booked before the change.
-- sample: select field, was_booked, count(*) as changes from fct_restatements group by all
with restated as (

    select *
    from fct_transaction_history
    where version > 1 and change_kind in ('changed', 'vanished')

),

fields as (

    select
        after.movement_id,
        after.account_key,
        after.account_id,
        after.transaction_id,
        after.version,
        after.booking_date,
        after.seen_from_at as seen_at,
        after.told_at,
        coalesce(before.status = 'BOOKED', false) as was_booked,
        after.month,
        after.pull_id,
        unnest(
            [
                { 'field': 'status', 'before': before.status, 'after': after.status },
                {
                    'field': 'signed_amount',
                    'before': before.signed_amount::varchar,
                    'after': after.signed_amount::varchar
                },
                { 'field': 'currency', 'before': before.currency, 'after': after.currency },
                {
                    'field': 'booking_date',
                    'before': before.booking_date::varchar,
                    'after': after.booking_date::varchar
                },
                {
                    'field': 'value_at',
                    'before': before.value_at::varchar,
                    'after': after.value_at::varchar
                },
                {
                    'field': 'transaction_type',
                    'before': before.transaction_type,
                    'after': after.transaction_type
                },
                {
                    'field': 'sub_transaction_type',
                    'before': before.sub_transaction_type,
                    'after': after.sub_transaction_type
                },
                {
                    'field': 'transaction_reference',
                    'before': before.transaction_reference,
                    'after': after.transaction_reference
                },
                {
                    'field': 'merchant_name',
                    'before': before.merchant_name,
                    'after': after.merchant_name
                },
                {
                    'field': 'merchant_category_code',
                    'before': before.merchant_category_code,
                    'after': after.merchant_category_code
                },
                {
                    'field': 'charge_amount',
                    'before': before.charge_amount::varchar,
                    'after': after.charge_amount::varchar
                },
                {
                    'field': 'is_shown',
                    'before': 'true',
                    'after': (after.change_kind <> 'vanished')::varchar
                }
            ]
        ) as change
    from restated as after
    inner join fct_transaction_history as before
        on
            after.account_id = before.account_id
            and after.transaction_id = before.transaction_id
            and after.month = before.month
            and after.version = before.version + 1

)

select
    -- ids
    movement_id,
    account_key,
    account_id,
    transaction_id,
    version,

    -- change
    change['field'] as field,
    change['before'] as before_value,
    change['after'] as after_value,

    -- flags
    was_booked,

    -- times
    booking_date,
    seen_at,
    told_at,
    riyadh_date(told_at) - booking_date as days_since_booking,
    month,

    -- trace
    pull_id
from fields
where change['before'] is distinct from change['after']
