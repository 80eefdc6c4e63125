-- Accounts and the days whose transactions may be read, at the instant that the lake speaks of.
select * from readable_accounts('transactions', (select clock.as_of from clock))
