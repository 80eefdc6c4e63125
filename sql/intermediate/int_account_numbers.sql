-- Keyed hashes of each account's own numbers. They recognise the account's number in another record
-- without showing it.
--
-- grain:  one row per real account
-- key:    account_key
-- stored: table
-- apart:  account by account_key
-- formerly: bridge_account_numbers
-- counts: every number that any listing of the account's ids ever showed
-- columns:
--   own_keys     Keyed hashes of the forms of its own numbers, sorted; see own_number_forms.
--   own_endings  Last two characters of its own numbers, sorted. A number with another ending is
--                not the account's, so it need not be hashed.
--   is_numbered  Whether the bank gives at least one of its numbers in full, without a mask. A
--                number that is not among them then belongs to another account.
--   is_card      Whether it is a credit or charge card. Its repayments pay for what was bought with
--                it.
-- cleared: own_keys (keyed hashes), own_endings (two characters), is_numbered (whether a full
--          number is known)
-- sample: select is_numbered, count(*) as accounts from int_account_numbers group by all
with collected as (

    select
        bridge_accounts.account_key,
        list_sort(list_distinct(flatten(
            list(account_numbers(accounts_history.identifications))
        ))) as numbers,
        bool_or(is_numbered(accounts_history.identifications)) as is_numbered,
        bool_or(
            coalesce(accounts_history.account_sub_type in ('CREDIT', 'CHARGE_CARD'), false)
        ) as is_card
    from accounts_history
    inner join bridge_accounts on accounts_history.account_id = bridge_accounts.account_id
    group by bridge_accounts.account_key

)

select
    account_key,
    list_sort(
        list_transform(own_number_forms(numbers), lambda form: keyed_hash(form))
    ) as own_keys,
    list_sort(
        list_distinct(list_transform(numbers, lambda number: right(number, 2)))
    ) as own_endings,
    is_numbered,
    is_card
from collected
