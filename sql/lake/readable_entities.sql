-- Entities of the lake, and whether they may be read at an instant.
--
-- wanted_permission is null where no permission is needed.
--
-- parameters: wanted_permission, at_instant
-- grain:  one row per entity
-- counts: a permission is granted only where the consent, or else the entity, says so. A permission
--         that the catalogue does not know, and a value that is null, grant nothing. Expiry is
--         computed from the consent's own end, because Lean shows it up to a day late
with active_consents as (

    select *
    from consents
    where
        consent_status = 'ACTIVE'
        and coalesce(expires_at, 'infinity'::timestamptz) > at_instant
    qualify row_number() over (partition by entity_id order by created_at desc, consent_id asc) = 1

),

-- The catalogue's columns are the only list of permissions: without a column, or without a value in
-- it, a permission is not granted.
by_consent as (

    select
        consent_id,
        is_granted
    from (
        unpivot (
            select
                consent_id,
                columns('^permits_')
            from active_consents
        )
        on columns('^permits_') into name permission value is_granted
    )
    where permission = 'permits_' || wanted_permission  -- noqa: RF02

),

by_entity as (

    select
        entity_id,
        is_granted
    from (
        unpivot (
            select
                entity_id,
                columns('^permits_')
            from entities
        )
        on columns('^permits_') into name permission value is_granted
    )
    where permission = 'permits_' || wanted_permission  -- noqa: RF02

)

select
    entities.entity_id,
    entities.bank_identifier,
    case
        when entities.status <> 'ACTIVE' then 'ENTITY_' || entities.status
        when paused_banks.bank_identifier is not null then 'BANK_PAUSED'
        when wanted_permission is null then null  -- noqa: RF02
        when active_consents.consent_id is null then 'CONSENT_EXPIRED'
        when
            not coalesce(by_consent.is_granted, by_entity.is_granted, false)
            then 'USER_PERMISSIONS_NOT_GRANTED'
    end as skip_code,
    active_consents.created_at as consented_at,
    -- A consent without a start starts a year before it was given, as Lean says. Without an end,
    -- it ends when it expires.
    coalesce(
        active_consents.transactions_from_at,
        active_consents.created_at - interval 1 year
    ) as transactions_from_at,
    coalesce(
        active_consents.transactions_to_at,
        active_consents.expires_at,
        'infinity'::timestamptz
    ) as transactions_to_at
from entities
left join active_consents on entities.entity_id = active_consents.entity_id
left join by_consent on active_consents.consent_id = by_consent.consent_id
left join by_entity on entities.entity_id = by_entity.entity_id
left join paused_banks on entities.bank_identifier = paused_banks.bank_identifier
