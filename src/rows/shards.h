/* Rows whose classes are spread over shards, of which this one has some: its statistics, and its part
   of the gradient from those of the whole row,

     g_j = scale exp(x_j - maximum),   at the label's place `own`

   in which the maximum is no less than any x_j. */

static void shard_statistics(const xf_rows *x, xf_panel *p, xf_shard *s)
{
    statistics(x, NULL, p, NULL, true);
    for (int i = 0; i < p->rows; i++) {
        const real m = state(p, MAXIMUM)[i], held = state(p, HELD)[i];
        const bool nothing = m == -INFINITY && held == held;
        s->maximum[i] = m;
        s->rest[i] = nothing ? 0 : (double)(held + (m - m)) * (double)EXP_UNIT;
        s->label[i] = p->label[i] < 0 ? -INFINITY : state(p, LABEL_LOGIT)[i];
    }
}

static void shard_gradient(const xf_rows *x, xf_panel *p, const xf_shard *s, const xf_out *out)
{
    for (int i = 0; i < LANES; i++) {
        const bool counts = i < p->rows && s->maximum[i] > -INFINITY;
        state(p, MAXIMUM)[i] = counts ? (real)s->maximum[i] : 0;
        state(p, SCALE)[i] = counts ? (real)s->scale[i] : 0;
        state(p, OWN_GRADIENT)[i] = counts ? (real)s->own[i] : 0;
    }
    p->kept = XF_KEPT_NOTHING;
    write_rows(WRITE_SCALED, x, NULL, p, out, state(p, OWN_GRADIENT));
    for (int i = 0; i < p->rows; i++)
        if (!(s->maximum[i] > -INFINITY))
            clear(out, i, p->classes);
}
