-- Movements that may recur, with the payment stream of each: the same account, currency, direction,
-- counterparty and nature. Recurring payments, payers and creditors are worked out from this table,
-- so that no other model has to read all movements.
--
-- grain:  one row per movement
-- key:    movement_id
-- stored: by month
-- apart:  account by account_key
-- formerly: fct_counterparty_movements
-- counts: booked movements with a sign, except internal transfers, reversals, reversed movements,
--         refunds, purchases at a till and cash from a machine: nobody is bound to these
-- zone:   booking_date is a Riyadh day, month the UTC month that the lake keeps the row in
-- columns:
--   stream_id          Payments of the same account, currency, direction, other side and nature; a
--                      hash of these.
--   party_kind         What identifies the other side: biller, account, merchant, kind (what the
--                      bank calls such movements), or amount where nothing else is known.
--   party              Value that identifies the other side, of the kind that party_kind names.
--   nature             In: salary, pension, support (from the state), profit, settlement (of card
--                      sales), disbursement (of a loan), transfer or other. Out: instalment, bnpl,
--                      rent, bill, fee, subscription, transfer or other.
--   nature_source      What the nature was taken from: flag (the bank's mark, which comes first),
--                      kind, text or party.
--   payment            The amount without its sign, in units of currency.
--   is_direct_debit    Whether the bank marks it as collected by a mandate.
--   is_standing_order  Whether the bank marks it as paid by a standing order.
-- sample: select direction, nature, count(*) as movements from int_counterparty_movements group by
--         all
with movements as (

    select
        movement_id,
        account_key,
        currency,
        direction,
        case
            when biller_id is not null then 'biller'
            when counterparty_key is not null then 'account'
            when merchant_match is not null then 'merchant'
            when transaction_type is not null or sub_transaction_type is not null then 'kind'
            else 'amount'
        end as party_kind,
        counterparty_key,
        merchant_match,
        biller_id,
        abs(signed_amount) as payment,
        transaction_type,
        sub_transaction_type,
        category,
        purpose,
        is_payroll,
        flags,
        coalesce(list_contains(flags, 'LOAN'), false) as is_loan,
        coalesce(list_contains(flags, 'DIRECT_DEBIT'), false) as is_direct_debit,
        coalesce(list_contains(flags, 'STANDING_ORDER'), false) as is_standing_order,
        booking_date,
        month
    from fct_transactions
    where
        is_booked
        and direction is not null
        and not is_internal_transfer
        and not is_reversal
        and not is_reversed
        and coalesce(sub_transaction_type, '') <> 'REFUND'
        and not (direction = 'out' and coalesce(transaction_type, '') in ('POS', 'ATM'))

),

identified as (

    select
        *,
        case party_kind
            when 'biller' then biller_id
            when 'account' then counterparty_key
            when 'merchant' then merchant_match
            when 'kind'
                then concat_ws(
                    '/', transaction_type, sub_transaction_type, array_to_string(flags, '+')
                )
            else payment::varchar
        end as party,
        case
            when direction = 'in' and is_payroll then 'salary flag'
            when direction = 'in' and purpose in ('support', 'pension', 'salary')
                then purpose || ' text'
            when
                direction = 'in'
                and sub_transaction_type in ('PROFIT', 'INTEREST')
                then 'profit kind'
            when direction = 'in' and list_contains(flags, 'DIVIDEND') then 'profit flag'
            when
                direction = 'in'
                and transaction_type = 'POS'
                and sub_transaction_type = 'DEPOSIT'
                then 'settlement kind'
            when direction = 'in' and sub_transaction_type = 'DISBURSEMENT'
                then 'disbursement kind'
            when direction = 'in' and party_kind = 'account' then 'transfer party'
            when direction = 'in' then 'other party'
            when is_loan then 'instalment flag'
            when sub_transaction_type in ('REPAYMENTS', 'LEASE_REPAYMENT') then 'instalment kind'
            when purpose in ('instalment', 'bnpl', 'rent') then purpose || ' text'
            when biller_id is not null or transaction_type = 'BILL_PAYMENTS' then 'bill kind'
            when
                sub_transaction_type in ('FEE', 'CHARGES')
                or category = 'BANK_FEES_AND_CHARGES'
                then 'fee kind'
            when party_kind = 'merchant' then 'subscription party'
            when party_kind = 'account' then 'transfer party'
            else 'other party'
        end as nature
    from movements

)

select
    -- ids
    movement_id,
    md5(concat_ws(
        '|', account_key, currency, direction, party_kind, party, split_part(nature, ' ', 1)
    )) as stream_id,
    account_key,

    -- money
    currency,
    payment,

    -- attributes
    direction,
    party_kind,
    party,
    counterparty_key,
    merchant_match,
    biller_id,
    split_part(nature, ' ', 1) as nature,
    split_part(nature, ' ', 2) as nature_source,

    -- flags
    is_direct_debit,
    is_standing_order,

    -- times
    booking_date,
    month
from identified
