-- Pulls that can still matter to what is known now. Reads the table standing, which has the claims
-- of all streams.
--
-- Each rule keeps what a relation of sql/lake needs, so that the relation gives the same rows over
-- these pulls and later ones as over all pulls. A pull of the same read target and month that
-- another one outdoes stays outdone whatever comes later.
--
-- grain: one row per pull (kind is pull), and one row per read target with days (kind is coverage);
--        ordered by kind, stream, month and read target
with mattering as (

    -- claims: what covers a day or a read target
    select pull_id from standing

    union

    -- claims: the newest refusal, because too much did not fit
    select
        arg_max(
            pull_id,
            (
                coalesce(refreshed_at, known_at, asked_at),
                coalesce(known_at, asked_at),
                coalesce(generation, 0),
                case when generation is null then pull_id else substr(pull_id, 15) end
            )
        )
    from pulls
    where code = 'RECORDS_UNFIT'
    group by stream, parent_id, month

    union

    -- claims: reads of format 1 whose records have no day
    select pull_id
    from pulls
    where month is not null and quarantined > 0 and unfit_dates is null and outcome = 'COMMITTED'

    union

    -- coverage: the newest attempt
    select
        arg_max(
            pull_id, (coalesce(known_at, asked_at), coalesce(generation, 0), pull_id)
        )
    from pulls
    where outcome <> 'SKIPPED' and month is not null
    group by stream, parent_id, month

    union

    -- clock, stale_entities, unread_entities: the newest bank data copy
    select arg_max(pull_id, refreshed_at)
    from pulls
    where outcome in ('COMMITTED', 'UNCHANGED') and refreshed_at is not null
    group by stream, entity_id

    union

    -- targets_of_snapshots: the last read or refusal
    select arg_max(pull_id, known_at)
    from pulls
    where outcome not in ('FAILED', 'LOST') and known_at is not null and month is null
    group by stream, parent_id

    union

    -- clock: the newest listing
    select arg_max(pull_id, known_at)
    from pulls
    where stream = 'entities' and outcome = 'COMMITTED' and known_at is not null

    union

    -- paused_banks: the newest refusal of a bank
    select arg_max(pull_id, (coalesce(known_at, asked_at), coalesce(generation, 0)))
    from pulls
    where outcome = 'FAILED' and code in ('DISABLED_BY_LEAN', 'DISABLED_BY_CLIENT')
    group by bank_identifier

    union

    -- quarantine: all reads with records that did not fit
    select pulls.pull_id
    from pulls
    semi join quarantined_records
        on
            pulls.stream = quarantined_records.stream
            and pulls.series_id = quarantined_records.series_id

    union

    -- account_depths, offered_now: what each bank offered at most, and what it reported last
    select
        unnest([
            arg_min(reports.pull_id, reports.one.transactions_from_date),
            arg_max(reports.pull_id, reports.created_at)
        ])
    from (
        select
            pull_id,
            created_at,
            unnest(account_statuses) as one
        from refreshes_history
    ) as reports
    where reports.one.account_id is not null and reports.one.transactions_from_date is not null
    group by reports.one.account_id

),

-- The files of a batch stand on its first row, which may not matter while others do.
files_of_batches as (

    select
        batch_id,
        any_value(files) as files
    from pulls
    where files is not null
    group by batch_id

),

kept as (

    select
        pulls.* exclude (files, remedy, results_id, correlation_id, trace_id),  -- noqa: RF02
        case
            when row_number() over (partition by pulls.batch_id order by pulls.pull_id) = 1
                then files_of_batches.files
        end as files
    from pulls
    left join files_of_batches on pulls.batch_id = files_of_batches.batch_id
    where pulls.pull_id in (select mattering.pull_id from mattering)

)

select
    'coverage' as kind,
    stream,
    parent_id,
    list(
        {
            'month': month,
            'from_date': claimed_from,
            'to_date': claimed_to,
            'refreshed_at': refreshed_at,
            'is_unfit': is_unfit,
            'moving_from': moving_from
        }
        order by claimed_from
    ) as ranges
from standing
where month is not null
group by stream, parent_id
union all by name
select
    'pull' as kind,
    kept.*
from kept
order by kind, stream, month, parent_id
