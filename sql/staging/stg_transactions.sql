-- Movements on accounts as their banks show them now, signed, with their days in Riyadh and their
-- other side.
--
-- grain:  one row per account and transaction id
-- key:    account_id, transaction_id
-- stored: view
-- counts: every status; only booked money is counted, so filter by is_booked before summing
-- zone:   instants are UTC, days are Riyadh days, month is the UTC month that the lake keeps it in
-- columns:
--   counterparty_side  debtor or creditor: which of both parties is the other side, that is not the
--                      account itself by any of its numbers. Where neither is known to be the
--                      account, the receiver of money out and the sender of money in; unknown where
--                      the bank tells no party, only the account itself, or only a party on the
--                      account's own side of which nothing tells whether it is the account.
--   counterparty_identification  (pii)  Account number of the other side as account_number spells
--                      it; null where the bank tells none.
--   counterparty_name  (pii)  Name of the other side; null where the bank tells none.
--   counterparty_match  (pii)  counterparty_name in a form for matching.
-- cleared: counterparty_side (one of three words)
with owned as (

    select
        account_id,
        own_number_forms(flatten(list(account_numbers(identifications)))) as own,
        -- Where only a mask is known, a number that is none of it may still be the account's.
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
