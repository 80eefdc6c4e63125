-- What is known of each account and UTC day, at the instant that the lake speaks of.
select * from coverage((select clock.as_of from clock))
