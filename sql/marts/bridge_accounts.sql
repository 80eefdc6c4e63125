-- Which real account each of Lean's account ids means. A customer who connects again gets new ids,
-- and a joint account has an id for each holder; the IBAN stays the same.
--
-- subject: people and consents
-- grain:  one row per account id that Lean ever listed
-- key:    account_id
-- stored: table
-- apart:  customer by account_id
-- columns:
--   account_key      The real account: keyed hash of its IBAN, or of the id where there is no IBAN.
--   link_quality     iban, or weak where only Lean's id identifies the account, so that an account
--                    with two ids counts twice.
--   customer_id      Customer who shared it.
--   bank_identifier  Bank of the entity.
--   is_listed        Whether the newest listing of its entity still has the id.
-- cleared: account_key (keyed hash), link_quality (whether there is an IBAN)
-- sample: select account_key, count(*) as ids from bridge_accounts group by all having ids > 1
with newest as (

    select
        account_id,
        entity_id,
        iban_of(identifications) as iban
    from accounts_history
    qualify
        row_number() over (
            partition by account_id
            order by
                coalesce(known_at, asked_at) desc,
                coalesce(generation, 0) desc,
                pull_tie(generation, pull_id) desc
        ) = 1

),

owners as (

    select
        entity_id,
        customer_id,
        bank_identifier
    from entities_history
    qualify
        row_number() over (
            partition by entity_id
            order by
                coalesce(known_at, asked_at) desc,
                coalesce(generation, 0) desc,
                pull_tie(generation, pull_id) desc
        ) = 1

)

select
    -- ids
    newest.account_id,
    keyed_hash(coalesce(newest.iban, newest.entity_id || '/' || newest.account_id)) as account_key,
    newest.entity_id,
    owners.customer_id,

    -- attributes
    owners.bank_identifier,
    case when newest.iban is null then 'weak' else 'iban' end as link_quality,

    -- flags
    accounts.account_id is not null as is_listed
from newest
inner join owners on newest.entity_id = owners.entity_id
left join accounts on newest.account_id = accounts.account_id
