-- Counts of unusual movements per month, so that mart_data_quality need not read every movement.
--
-- grain:  one row per bank and UTC month
-- key:    bank_identifier, month
-- stored: by month
-- apart:  whole
-- formerly: fct_quality_monthly
-- counts: movements of every status
-- columns:
--   bank_identifier      Bank of the account; unknown where no entity names it.
--   month                UTC month that the lake keeps the movements in, YYYY-MM.
--   movement_count       Movements.
--   unknown_sign_count   Movements without a signed amount.
--   null_status_count    Movements without a status.
--   unsupported_count    Movements with UNSUPPORTED as status or kind.
--   null_balance_count   Booked movements without a balance after them.
--   unknown_currency_count  Movements whose currency is not a code of ISO 4217.
--   opaque_count         Booked movements, without internal transfers, that were not understood;
--                        see is_opaque.
--   booked_count         Booked movements.
-- sample: select bank_identifier, sum(unknown_sign_count) as unknown_signs, sum(movement_count) as
--         movements from int_quality_monthly group by all order by all
with banks_of_accounts as (

    select
        account_key,
        min(bank_identifier) as bank_identifier
    from bridge_accounts
    group by account_key

)

select
    coalesce(banks_of_accounts.bank_identifier, 'unknown') as bank_identifier,
    movements.month,
    count(*) as movement_count,
    count(*) filter (where movements.signed_amount is null) as unknown_sign_count,
    count(*) filter (where movements.status is null) as null_status_count,
    count(*) filter (
        where movements.status = 'UNSUPPORTED'
        or movements.transaction_type = 'UNSUPPORTED'
        or movements.sub_transaction_type = 'UNSUPPORTED'
    ) as unsupported_count,
    count(*) filter (
        where movements.is_booked and movements.signed_balance is null
    ) as null_balance_count,
    count(*) filter (where not is_currency(movements.currency)) as unknown_currency_count,
    count(*) filter (
        where movements.is_booked
        and not movements.is_internal_transfer
        and is_opaque(
            movements.direction, movements.category,
            movements.transaction_type, movements.sub_transaction_type
        )
    ) as opaque_count,
    count(*) filter (where movements.is_booked) as booked_count
from fct_transactions as movements
left join banks_of_accounts on movements.account_key = banks_of_accounts.account_key
group by all
