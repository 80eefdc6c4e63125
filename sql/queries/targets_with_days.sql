-- Accounts with the days that their consents allow to read, and with the earliest day that their
-- bank offers. Reads the temporary macro readable and the temporary table already_read.
--
-- grain: one row per account
-- zone:  from_date, to_date, available_from and reported_on are UTC days
select
    readable.account_id,
    readable.entity_id,
    readable.bank_identifier,
    readable.skip_code,
    readable.from_date,
    readable.to_date,
    offered.offered_from as available_from,
    offered.reported_on,
    already_read.read_months
from readable($permission, $now) as readable  -- noqa: RF02
left join offered_now as offered on readable.account_id = offered.account_id
left join already_read on readable.target_id = already_read.parent_id
where
    ($entity_ids is null or list_contains($entity_ids, readable.entity_id))  -- noqa: RF02
    and (
        $account_ids is null  -- noqa: RF02
        or list_contains($account_ids, readable.account_id)  -- noqa: RF02
    )
