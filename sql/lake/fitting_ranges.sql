-- What is left of a range of days without the days whose records did not fit, as a list of ranges.
-- unfit_dates is sorted, and may be null.
create or replace macro fitting_ranges(first_date, final_date, unfit_dates) as
list_filter(
    list_transform(
        list_zip(
            list_concat(
                [first_date],
                list_transform(
                    list_filter(
                        coalesce(unfit_dates, [])::date[],
                        lambda one: one between first_date and final_date
                    ),
                    lambda one: one + 1
                )
            ),
            list_concat(
                list_transform(
                    list_filter(
                        coalesce(unfit_dates, [])::date[],
                        lambda one: one between first_date and final_date
                    ),
                    lambda one: one - 1
                ),
                [final_date]
            )
        ),
        lambda pair: { 'first_date': pair[1], 'final_date': pair[2] }
    ),
    lambda piece: piece['first_date'] <= piece['final_date']
);
