-- Owners of each real account: which customers share it, in which role, and how well the name on
-- the account matches theirs. Tables of money are per account; join this table to see whose it is.
--
-- subject: people and consents
-- grain:  one row per real account and customer who ever shared it
-- key:    account_key, customer_id
-- stored: table
-- apart:  account by account_key
-- columns:
--   source              What the role was taken from: party, where the bank names the customer
--                       among the account's parties; identity, where only the entity's own identity
--                       says it; consent, where nothing but the sharing is known.
--   role                Role in the bank's words; null where source is consent or the bank gives no
--                       role.
--   party_type          Whether the customer holds alone, jointly or as a delegate; null where
--                       source is consent or the bank does not say.
--   name_match_score    From 0 to 1: the share of words that the holder's name on the account and
--                       the customer's identity have in common, the best of their spellings; null
--                       where name_match_reason says why.
--   name_match_reason   compared, or why there is no score: no_holder_name, no_identity, or
--                       other_script (Arabic letters on one side, Latin letters on the other side).
--   is_listed           Whether the newest listing of any of the customer's entities has the
--                       account.
--   first_seen_at       When a listing of the customer's entities first had the account, by Lean's
--                       clock, UTC.
--   last_seen_at        When a listing of the customer's entities last had the account, by Lean's
--                       clock, UTC.
-- cleared: name_match_score (a share of words), name_match_reason (what there was to compare)
-- sample: select source, role, count(*) as owners, avg(name_match_score) as average_score
--         from bridge_account_owners group by all order by all
with named as (

    select
        account_id,
        arg_max(
            [name_words(account_holder_name), name_words(account_holder_short_name)], pull_id
        ) as holder_names
    from accounts_history
    group by account_id

),

shares as (

    select
        bridge_accounts.account_key,
        bridge_accounts.customer_id,
        bridge_accounts.account_id,
        bridge_accounts.entity_id,
        bridge_accounts.is_listed,
        listings.first_seen_at,
        listings.last_seen_at,
        named.holder_names
    from bridge_accounts
    inner join int_account_listings as listings
        on bridge_accounts.account_id = listings.account_id
    inner join named on bridge_accounts.account_id = named.account_id
    where bridge_accounts.customer_id is not null  -- could not be read

),

people as (

    select
        entity_id,
        party_index,
        party_id,
        national_id,
        legal_name_match,
        account_role,
        party_type,
        [name_words(full_legal_name), name_words(name)] as names
    from stg_identity

),

parties as (

    select
        shares.account_key,
        shares.customer_id,
        parties.account_role,
        parties.party_type,
        row_number() over (
            partition by shares.account_key, shares.customer_id
            order by
                coalesce(parties.national_id = people.national_id, false) desc,
                coalesce(parties.party_id = people.party_id, false) desc,
                shares.is_listed desc,
                parties.account_id asc,
                parties.party_index asc,
                people.party_index asc
        ) as preference
    from shares
    inner join people on shares.entity_id = people.entity_id
    inner join stg_identities as parties on shares.account_id = parties.account_id
    where
        parties.national_id = people.national_id
        or parties.party_id = people.party_id
        or parties.legal_name_match = people.legal_name_match

),

identified as (

    select
        shares.account_key,
        shares.customer_id,
        people.account_role,
        people.party_type,
        row_number() over (
            partition by shares.account_key, shares.customer_id
            order by shares.is_listed desc, shares.account_id asc, people.party_index asc
        ) as preference
    from shares
    inner join people on shares.entity_id = people.entity_id

),

compared as (

    select
        shares.account_key,
        shares.customer_id,
        max(greatest(
            name_share(shares.holder_names[1], people.names[1]),
            name_share(shares.holder_names[1], people.names[2]),
            name_share(shares.holder_names[2], people.names[1]),
            name_share(shares.holder_names[2], people.names[2])
        )) as score,
        bool_or(len(flatten(shares.holder_names)) > 0) as has_holder,
        bool_or(len(flatten(people.names)) > 0) as has_identity
    from shares
    left join people on shares.entity_id = people.entity_id
    group by shares.account_key, shares.customer_id

),

owners as (

    select
        account_key,
        customer_id,
        bool_or(is_listed) as is_listed,
        min(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at
    from shares
    group by account_key, customer_id

)

select
    -- ids
    owners.account_key,
    owners.customer_id,

    -- attributes
    case
        when parties.account_key is not null then 'party'
        when identified.account_key is not null then 'identity'
        else 'consent'
    end as source,
    case when parties.account_key is not null then parties.account_role else identified.account_role
    end as role,
    case when parties.account_key is not null then parties.party_type else identified.party_type
    end as party_type,
    compared.score as name_match_score,
    case
        when compared.score is not null then 'compared'
        when not compared.has_holder then 'no_holder_name'
        when not coalesce(compared.has_identity, false) then 'no_identity'
        else 'other_script'
    end as name_match_reason,

    -- flags
    owners.is_listed,

    -- times
    owners.first_seen_at,
    owners.last_seen_at
from owners
inner join compared
    on owners.account_key = compared.account_key and owners.customer_id = compared.customer_id
left join parties
    on
        owners.account_key = parties.account_key
        and owners.customer_id = parties.customer_id
        and parties.preference = 1
left join identified
    on
        owners.account_key = identified.account_key
        and owners.customer_id = identified.customer_id
        and identified.preference = 1
