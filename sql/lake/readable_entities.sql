-- Entities of the lake, and whether something may be read for them at an instant.
--
-- This is the body of a table macro; wanted_permission (null for none) and at_instant are its
-- parameters.
--
-- grain:  one row per entity
-- counts: expiry is computed from the consent's own end, because Lean shows it up to a day late
with active_consents as (

    select *
    from consents
    where
        consent_status = 'ACTIVE'
        and coalesce(expires_at, 'infinity'::timestamptz) > at_instant
    qualify row_number() over (partition by entity_id order by created_at desc, consent_id asc) = 1

)

select
    entities.entity_id,
    entities.bank_identifier,
    case
        when entities.status <> 'ACTIVE' then 'ENTITY_' || entities.status
        when paused_banks.bank_identifier is not null then 'BANK_PAUSED'
        when wanted_permission is null then null  -- noqa: RF02
        when active_consents.consent_id is null then 'CONSENT_EXPIRED'
        when not coalesce(
            case wanted_permission  -- noqa: RF02
                when 'identity'
                    then coalesce(active_consents.permits_identity, entities.permits_identity)
                when 'accounts'
                    then coalesce(active_consents.permits_accounts, entities.permits_accounts)
                when 'balance'
                    then coalesce(active_consents.permits_balance, entities.permits_balance)
                when 'transactions'
                    then
                        coalesce(
                            active_consents.permits_transactions, entities.permits_transactions
                        )
                when 'identities'
                    then coalesce(active_consents.permits_identities, entities.permits_identities)
                when 'scheduled_payments'
                    then
                        coalesce(
                            active_consents.permits_scheduled_payments,
                            entities.permits_scheduled_payments
                        )
                when 'standing_orders'
                    then
                        coalesce(
                            active_consents.permits_standing_orders,
                            entities.permits_standing_orders
                        )
                when 'direct_debits'
                    then
                        coalesce(
                            active_consents.permits_direct_debits, entities.permits_direct_debits
                        )
                when 'beneficiaries'
                    then
                        coalesce(
                            active_consents.permits_beneficiaries, entities.permits_beneficiaries
                        )
            end,
            true
        ) then 'USER_PERMISSIONS_NOT_GRANTED'
    end as skip_code,
    active_consents.created_at as consented_at,
    -- Without a start Lean's default holds, a year before the consent; without an end, its expiry.
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
left join paused_banks on entities.bank_identifier = paused_banks.bank_identifier
