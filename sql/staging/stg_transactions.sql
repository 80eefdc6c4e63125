-- Movements on accounts as their banks show them now, signed, with their days in Riyadh and their
-- other side.
--
-- grain:  one row per account and transaction id
-- key:    account_id, transaction_id
-- stored: view
-- counts: every status; only booked money is counted, so filter by is_booked before summing
-- zone:   instants are UTC, days are Riyadh days, month is the UTC month that the lake keeps it in
-- columns:
--   counterparty_side  debtor or creditor: the party that is the other side, because no number
--                      shows it to be the account itself. If neither party is known to be the
--                      account, it is the receiver of money out and the sender of money in. It is
--                      unknown where the bank names no party or only the account itself. It is also
--                      unknown where the bank names only a party on the account's own side that may
--                      be the account.
--   counterparty_identification  (pii)  Account number of the other side as account_number spells
--                      it; null where the bank gives no number.
--   counterparty_name  (pii)  Name of the other side; null where the bank gives no name.
--   counterparty_match  (pii)  counterparty_name in a form for matching.
-- cleared: counterparty_side (one of three words)
with owned as (

    select
        account_id,
        own_number_forms(flatten(list(account_numbers(identifications)))) as own,
        -- Where only a mask is known, a number that does not fit it may still be the account's.
        case when bool_or(is_numbered(identifications)) then false end as is_other
    from accounts_history
    group by account_id

),

sided as (

    select
        movements.*,
        counterparty_side(
            movements.credit_debit_indicator,
            movements.debtor_number,
            movements.debtor_account_name,
            list_has_any(number_forms(movements.debtor_number), owned.own) or owned.is_other,
            movements.creditor_number,
            movements.creditor_account_name,
            list_has_any(number_forms(movements.creditor_number), owned.own) or owned.is_other
        ) as counterparty_side
    from stg_movements as movements
    left join owned on movements.account_id = owned.account_id

)

select
    *,
    case counterparty_side
        when 'debtor' then debtor_number when 'creditor' then creditor_number
    end as counterparty_identification,
    case counterparty_side
        when 'debtor' then debtor_account_name when 'creditor' then creditor_account_name
    end as counterparty_name,
    matchable(
        case counterparty_side
            when 'debtor' then debtor_account_name when 'creditor' then creditor_account_name
        end
    ) as counterparty_match
from sided
