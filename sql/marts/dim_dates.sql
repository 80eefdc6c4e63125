-- Days in both calendars of Saudi Arabia, with its weekend.
--
-- subject: money
-- grain:  one row per day from 2014 to 2049
-- key:    calendar_date
-- stored: table
-- apart:  whole
-- zone:   a day is a day in Riyadh, as in every column named _date of other tables
-- columns:
--   calendar_date         The day.
--   year                  Gregorian year.
--   quarter               Gregorian quarter, from 1 to 4.
--   month                 Gregorian month, from 1 to 12.
--   month_date            First day of the Gregorian month.
--   month_end_date        Last day of the Gregorian month.
--   day_of_month          Day of the Gregorian month, from 1.
--   iso_year              Year that the ISO week belongs to.
--   iso_week              ISO week, from 1 to 53; it begins on a Monday.
--   week_date             Monday of the ISO week.
--   weekday               Day of the week by ISO, from 1 (Monday) to 7 (Sunday).
--   weekday_name          Day of the week in English.
--   hijri_year            Year of the Hijra by Umm al-Qura.
--   hijri_month           Month by Umm al-Qura, from 1 (Muharram) to 12 (Dhu al-Hijjah).
--   hijri_day             Day of the month by Umm al-Qura, from 1 to 30.
--   hijri_text            Day by Umm al-Qura as YYYY-MM-DD; text, since it is no Gregorian day.
--   hijri_month_name      Name of the Hijri month in Latin letters.
--   hijri_month_arabic    Name of the Hijri month in Arabic.
--   hijri_month_date      First day of the Hijri month, as a Gregorian day.
--   hijri_month_end_date  Last day of the Hijri month, as a Gregorian day.
--   is_weekend            Whether it is a Friday or a Saturday.
--   is_month_end          Whether it is the last day of the Gregorian month.
--   is_hijri_month_end    Whether it is the last day of the Hijri month.
-- sample: select hijri_year, hijri_month, sum(signed_amount) as spent, currency
--         from fct_transactions inner join dim_dates on booking_date = calendar_date
--         where is_booked and direction = 'out' group by all order by all
with hijri as (

    select
        hijri_year::integer as hijri_year,
        hijri_month::integer as hijri_month,
        english_name,
        arabic_name,
        month_date::date as month_date,
        lead(month_date::date) over (order by month_date::date) - 1 as month_end_date
    from hijri_months

),

days as (

    select
        unnest(generate_series(
            date '2014-01-01', date '2049-12-31', interval 1 day
        ))::date as calendar_date

)

select
    days.calendar_date,

    -- Gregorian
    year(days.calendar_date)::integer as year,
    quarter(days.calendar_date)::integer as quarter,
    month(days.calendar_date)::integer as month,
    date_trunc('month', days.calendar_date)::date as month_date,
    last_day(days.calendar_date) as month_end_date,
    day(days.calendar_date)::integer as day_of_month,
    isoyear(days.calendar_date)::integer as iso_year,
    week(days.calendar_date)::integer as iso_week,
    date_trunc('week', days.calendar_date)::date as week_date,
    isodow(days.calendar_date)::integer as weekday,
    dayname(days.calendar_date) as weekday_name,

    -- Hijri
    hijri.hijri_year,
    hijri.hijri_month,
    (days.calendar_date - hijri.month_date + 1)::integer as hijri_day,
    printf(
        '%d-%02d-%02d',
        hijri.hijri_year, hijri.hijri_month, days.calendar_date - hijri.month_date + 1
    ) as hijri_text,
    hijri.english_name as hijri_month_name,
    hijri.arabic_name as hijri_month_arabic,
    hijri.month_date as hijri_month_date,
    hijri.month_end_date as hijri_month_end_date,

    -- flags
    isodow(days.calendar_date) in (5, 6) as is_weekend,
    days.calendar_date = last_day(days.calendar_date) as is_month_end,
    days.calendar_date = hijri.month_end_date as is_hijri_month_end
from days
inner join hijri on days.calendar_date between hijri.month_date and hijri.month_end_date
