-- Movements of every real account as its bank shows them now, one row per movement, however often
-- the account was shared or connected again.
--
-- subject: money
-- grain:  one row per movement
-- key:    movement_id
-- stored: by month
-- apart:  account by account_key
-- counts: every status; only booked money is counted, so filter by is_booked before summing, and
--         by not is_internal_transfer where own money must not count twice; never sum across
--         currencies
-- zone:   instants are UTC, dates and booking_month are Riyadh's, month is the UTC month that the
--         lake keeps the row in
-- columns:
--   movement_id           Account and transaction id; it survives a new consent where the bank's
--                         ids do.
--   counterparty_side     debtor or creditor: the party that is the other side, because no number
--                         shows it to be the account itself. If neither party is known to be the
--                         account, it is the receiver of money out and the sender of money in. It
--                         is unknown where the bank names no party or only the account itself. It
--                         is also unknown where the bank names only a party on the account's own
--                         side that may be the account.
--   counterparty_key      The other side's account: keyed hash of its number, which is its
--                         account_key if that account is known here. Null where the bank gives no
--                         number.
--   direction             in or out, by signed_amount; null where that is null or zero.
--   category              Lean's category where it was asked for, else the category of the
--                         merchant's code, else of the bank's marks, else of the kind of movement;
--                         UNKNOWN where none of these is known.
--   category_source       What the category was taken from: insight, merchant, flag, type or none.
--   purpose               What the bank's text says that it is for: salary, pension, support, rent,
--                         instalment or bnpl. Null where the text says nothing of these, and on
--                         purchases at a till, where a word may be the shop's name.
--   merchant_code         Merchant category code, four digits of ISO 18245.
--   is_internal_transfer  Whether it is a leg of a transfer between two accounts of a customer,
--                         both of which are here; see fct_transaction_links.
--   is_reversal           Whether the bank calls it a reversal.
--   is_reversed           Whether a reversal took it back.
--   is_payroll            Whether the bank marks it as payroll.
--   linked_movement_id    The other leg, the reversal, or the reversed movement; null without a
--                         link.
--   booking_month         First day of the Riyadh month of booking_date.
--   last_good_at          When the bank had last been asked for this version, UTC, if the newest
--                         version does not fit and this version stays; null on all other rows.
-- cleared: counterparty_key (keyed hash), counterparty_side (one of three words),
--          purpose (one of six words)
-- sample: select booking_month, currency, sum(signed_amount) as net, count(*) as movements
--         from fct_transactions where is_booked and not is_internal_transfer
--         group by all order by all
with links as (

    select
        movement_id,
        bool_or(link_kind = 'internal_transfer') as is_internal_transfer,
        bool_or(link_kind = 'reversed') as is_reversed,
        min(linked_movement_id) as linked_movement_id
    from fct_transaction_links
    group by movement_id

),

merchant_codes as (

    select
        unnest(generate_series(mcc_from::integer, mcc_to::integer)) as merchant_code,
        category
    from mcc_categories

),

marks as (

    select map_from_entries(list((flag, category) order by flag)) as categories
    from flag_categories

),

movements as (

    select
        shown.*,
        claims.account_key,
        counterparty_side(
            shown.credit_debit_indicator,
            shown.debtor_number,
            shown.debtor_account_name,
            owns_number(
                shown.debtor_number, numbers.own_keys, numbers.own_endings, numbers.is_numbered
            ),
            shown.creditor_number,
            shown.creditor_account_name,
            owns_number(
                shown.creditor_number, numbers.own_keys, numbers.own_endings, numbers.is_numbered
            )
        ) as counterparty_side
    from stg_movements as shown
    inner join int_covering_pulls as claims
        on
            shown.account_id = claims.account_id
            and shown.pull_id = claims.pull_id
            and utc_day(shown.placed_at)
            between claims.claimed_from and claims.claimed_to
    left join int_account_numbers as numbers on claims.account_key = numbers.account_key

)

select
    -- ids
    movements.account_key || ':' || movements.transaction_id as movement_id,
    movements.account_key,
    movements.account_id,
    movements.entity_id,
    movements.transaction_id,
    keyed_hash(
        case movements.counterparty_side
            when 'debtor' then movements.debtor_number
            when 'creditor' then movements.creditor_number
        end
    ) as counterparty_key,

    -- money
    movements.currency,
    movements.signed_amount,
    movements.amount,
    movements.signed_balance,
    movements.balance_currency,
    movements.balance_type,
    movements.charge_amount,
    movements.charge_currency,
    movements.is_charge_included,
    movements.charge_vat_amount,
    movements.charge_vat_currency,
    movements.instructed_amount,
    movements.instructed_currency,
    movements.exchange_rate,

    -- attributes
    movements.status,
    case when movements.signed_amount > 0 then 'in' when movements.signed_amount < 0 then 'out' end
        as direction,
    movements.sign_quality,
    movements.counterparty_side,
    movements.transaction_mutability,
    movements.transaction_type,
    movements.sub_transaction_type,
    movements.payment_mode,
    movements.flags,
    coalesce(
        movements.insight_category, merchant_codes.category,
        flagged_category(movements.flags, marks.categories), kinds.category, anywhere.category,
        'UNKNOWN'
    ) as category,
    case
        when movements.insight_category is not null then 'insight'
        when merchant_codes.category is not null then 'merchant'
        when flagged_category(movements.flags, marks.categories) is not null then 'flag'
        when coalesce(kinds.category, anywhere.category) is not null then 'type'
        else 'none'
    end as category_source,
    case
        when coalesce(movements.transaction_type, '') not in ('POS', 'ATM')
            then purpose_of(
                concat_ws(' ', movements.transaction_information, movements.merchant_name)
            )
    end as purpose,
    movements.merchant_name,
    movements.merchant_match,
    movements.merchant_id,
    regexp_extract(movements.merchant_category_code, '([0-9]{4})$', 1) as merchant_code,
    movements.biller_id,
    movements.card_scheme,
    movements.transaction_reference,

    -- flags
    movements.is_booked,
    coalesce(links.is_internal_transfer, false) as is_internal_transfer,
    takes_back(movements.sub_transaction_type) as is_reversal,
    coalesce(links.is_reversed, false) as is_reversed,
    coalesce(list_contains(movements.flags, 'PAYROLL'), false) as is_payroll,
    links.linked_movement_id,

    -- times
    movements.placed_at,
    movements.booked_at,
    movements.value_at,
    movements.booking_date,
    movements.value_date,
    movements.transaction_date,
    date_trunc('month', movements.booking_date)::date as booking_month,
    movements.day_index,
    movements.month,

    -- trace
    movements.last_good_at,
    movements.pull_id
from movements
cross join marks
left join links on movements.account_key || ':' || movements.transaction_id = links.movement_id
left join merchant_codes
    on
        try_cast(regexp_extract(movements.merchant_category_code, '([0-9]{4})$', 1) as integer)
        = merchant_codes.merchant_code
left join type_categories as kinds
    on
        movements.transaction_type = kinds.transaction_type
        and movements.sub_transaction_type = kinds.sub_transaction_type
left join type_categories as anywhere
    on
        anywhere.transaction_type is null
        and movements.sub_transaction_type = anywhere.sub_transaction_type
